// A second opinion on histories: reads files of JSON lines, one operation a line, and prints for every file and key whether porcupine
// finds them linearizable: `FILE KEY ok|illegal|undecided`, separated by tabs.
//
// It judges the order only. What the other checker finds besides (sessions, local reads that go back) is not looked at here; what a local
// read shows had been committed by then, and that bounds its write, as it does there.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"sort"
	"time"

	"github.com/anishathalye/porcupine"
)

// For each key. What takes longer counts as undecided, which its reader limits.
const patience = 20 * time.Second

// Values are up to 1 MiB, and JSON may write each byte as six.
const lineBytesMax = 8 << 20

type condition struct {
	name     string
	revision uint64
}

func (c *condition) UnmarshalJSON(data []byte) error {
	if json.Unmarshal(data, &c.name) == nil {
		return nil
	}
	var tagged struct{ Revision uint64 }
	c.name = "revision"
	err := json.Unmarshal(data, &tagged)
	c.revision = tagged.Revision
	return err
}

type call struct {
	Read  *struct{ Consistency string }
	Write *struct {
		Value     string
		Condition condition
	}
	Delete *struct{ Condition condition }
}

type outcome struct {
	name  string
	found struct {
		Value    *string
		Revision *uint64
	}
	revision *uint64
}

func (o *outcome) UnmarshalJSON(data []byte) error {
	if json.Unmarshal(data, &o.name) == nil {
		return nil
	}
	var tagged map[string]json.RawMessage
	if err := json.Unmarshal(data, &tagged); err != nil {
		return err
	}
	for name, body := range tagged {
		o.name = name
		if name == "found" {
			return json.Unmarshal(body, &o.found)
		}
		var told struct{ Revision *uint64 }
		err := json.Unmarshal(body, &told)
		o.revision = told.Revision
		return err
	}
	return fmt.Errorf("an outcome without a name")
}

type operation struct {
	Process  int
	Key      string
	Invoked  int64
	Returned *int64
	Call     call
	Outcome  outcome
}

// What the whole history of a key tells about its values.
type known struct {
	revisions map[string]uint64
	taken     map[uint64]bool
	firstSeen map[string]int64
}

type state struct {
	present bool
	value   string
	// The newest revision known to have been written: revisions are places in a log, so they grow along the order.
	revision uint64
}

func learn(operations []operation) known {
	k := known{map[string]uint64{}, map[uint64]bool{}, map[string]int64{}}
	name := func(value string, revision *uint64) {
		if revision != nil {
			k.revisions[value] = *revision
			k.taken[*revision] = true
		}
	}
	for _, o := range operations {
		if o.Outcome.name == "found" && o.Outcome.found.Value != nil {
			value := *o.Outcome.found.Value
			name(value, o.Outcome.found.Revision)
			if first, there := k.firstSeen[value]; !there || *o.Returned < first {
				k.firstSeen[value] = *o.Returned
			}
		}
		if o.Outcome.name == "done" && o.Call.Write != nil {
			name(o.Call.Write.Value, o.Outcome.revision)
		}
	}
	return k
}

// Whether the state is surely, and whether it is possibly, at this revision.
func (k known) at(s state, revision uint64) (surely, possibly bool) {
	if !s.present {
		return false, false
	}
	if own, told := k.revisions[s.value]; told {
		return own == revision, own == revision
	}
	return false, !k.taken[revision]
}

func (k known) holds(c condition, s state) (surely, possibly bool) {
	switch c.name {
	case "absent":
		return !s.present, !s.present
	case "present":
		return s.present, s.present
	case "revision":
		return k.at(s, c.revision)
	default:
		return true, true
	}
}

func (k known) step(s state, o operation) (bool, state) {
	if o.Call.Read != nil {
		value := o.Outcome.found.Value
		return s.present == (value != nil) && (value == nil || *value == s.value), s
	}
	to := state{revision: s.revision}
	effective := true
	var c condition
	if o.Call.Write != nil {
		c, to.present, to.value = o.Call.Write.Condition, true, o.Call.Write.Value
	} else {
		c, effective = o.Call.Delete.Condition, s.present
	}
	surely, possibly := k.holds(c, s)
	if o.Outcome.name == "failed" {
		told := o.Outcome.revision == nil
		if !told {
			_, told = k.at(s, *o.Outcome.revision)
		}
		return told && !(surely && effective), s
	}
	revision := o.Outcome.revision
	if own, there := k.revisions[to.value]; there && to.present {
		revision = &own
	}
	fits := possibly && effective && (revision == nil || *revision > s.revision)
	if revision != nil {
		to.revision = *revision
	}
	if o.Outcome.name == "unknown" {
		_, seen := k.firstSeen[to.value]
		if !(to.present && seen) && !fits {
			// It has no end, so it can always come last, where nobody sees whether it happened.
			return true, s
		}
	}
	return fits, to
}

func check(operations []operation) porcupine.CheckResult {
	k := learn(operations)
	model := porcupine.Model{
		Init: func() any { return state{} },
		Step: func(s, in, _ any) (bool, any) { return k.step(s.(state), in.(operation)) },
	}
	var history []porcupine.Operation
	for _, o := range operations {
		if o.Outcome.name == "refused" || o.Call.Read != nil && (o.Call.Read.Consistency != "linearizable" || o.Outcome.name != "found") {
			continue
		}
		end := int64(math.MaxInt64)
		if o.Outcome.name != "unknown" {
			end = *o.Returned
		}
		if o.Call.Write != nil && o.Outcome.name != "failed" {
			if first, seen := k.firstSeen[o.Call.Write.Value]; seen {
				end = min(end, first)
			}
		}
		if end < o.Invoked {
			return porcupine.Illegal // seen before it was written
		}
		history = append(history, porcupine.Operation{ClientId: o.Process, Input: o, Call: o.Invoked, Return: end})
	}
	return porcupine.CheckOperationsTimeout(model, history, patience)
}

func judge(path string, out *bufio.Writer) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	keys := map[string][]operation{}
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, lineBytesMax)
	for lines.Scan() {
		var o operation
		if err := json.Unmarshal(lines.Bytes(), &o); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		keys[o.Key] = append(keys[o.Key], o)
	}
	names := make([]string, 0, len(keys))
	for name := range keys {
		names = append(names, name)
	}
	sort.Strings(names)
	words := map[porcupine.CheckResult]string{porcupine.Ok: "ok", porcupine.Illegal: "illegal", porcupine.Unknown: "undecided"}
	for _, name := range names {
		fmt.Fprintf(out, "%s\t%s\t%s\n", path, name, words[check(keys[name])])
	}
	return lines.Err()
}

func main() {
	out := bufio.NewWriter(os.Stdout)
	for _, path := range os.Args[1:] {
		if err := judge(path, out); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	if err := out.Flush(); err != nil {
		os.Exit(1)
	}
}
