// What an application does with go-redis, which speaks RESP3 (HELLO 3) by default.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

const patience = time.Minute

func expect(what string, found any, err error, wanted any) {
	if err != nil || !reflect.DeepEqual(found, wanted) {
		fail("%s: %v (error %v) instead of %v", what, found, err, wanted)
	}
}

func fails(what string, err error, contains string) {
	if err == nil || !strings.Contains(err.Error(), contains) {
		fail("%s: error %v instead of one with %q", what, err, contains)
	}
}

func fail(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
	os.Exit(1)
}

func main() {
	ctx, address := context.Background(), os.Args[1]+":"+os.Args[2]
	for _, protocol := range []int{2, 3} {
		// Each read of the pipeline waits for the write before it: hundreds of syncs in a row are more than the client's three seconds on a slow disk.
		options := &redis.Options{Addr: address, Password: os.Args[3], Protocol: protocol, MaxRetries: -1, DialTimeout: patience, ReadTimeout: patience}
		r := redis.NewClient(options)
		p := fmt.Sprintf("%s:%d:", os.Args[4], protocol)
		set, err := r.Set(ctx, p+"a", "ä value", 0).Result()
		expect("SET", set, err, "OK")
		get, err := r.Get(ctx, p+"a").Result()
		expect("GET", get, err, "ä value")
		if _, err := r.Get(ctx, p+"none").Result(); !errors.Is(err, redis.Nil) {
			fail("GET of nothing: %v", err)
		}
		set, err = r.MSet(ctx, p+"b", "1", p+"c", "2").Result()
		expect("MSET", set, err, "OK")
		many, err := r.MGet(ctx, p+"b", p+"none", p+"c").Result()
		expect("MGET", many, err, []any{"1", nil, "2"})
		count, err := r.Exists(ctx, p+"a", p+"b", p+"none").Result()
		expect("EXISTS", count, err, int64(2))
		count, err = r.IncrBy(ctx, p+"n", 42).Result()
		expect("INCRBY", count, err, int64(42))
		count, err = r.Incr(ctx, p+"n").Result()
		expect("INCR", count, err, int64(43))
		fails("INCR of text", r.Incr(ctx, p+"a").Err(), "not an integer")
		var last []*redis.StringCmd
		_, err = r.Pipelined(ctx, func(pipe redis.Pipeliner) error {
			for n := range 200 {
				pipe.Set(ctx, fmt.Sprintf("%sp%d", p, n), n, 0)
				last = append(last, pipe.Get(ctx, fmt.Sprintf("%sp%d", p, n)))
			}
			return nil
		})
		expect("a pipeline", len(last), err, 200)
		for n, got := range last {
			expect("a read in a pipeline", got.Val(), got.Err(), fmt.Sprint(n))
		}
		count, err = r.Del(ctx, p+"a", p+"b", p+"none").Result()
		expect("DEL", count, err, int64(2))
		fails("an unknown command", r.Do(ctx, "NONSENSE").Err(), "unknown command")
		wrong := *options
		wrong.Password = "wrong"
		fails("a wrong password", redis.NewClient(&wrong).Ping(ctx).Err(), "WRONGPASS")
	}
	fmt.Println("ok")
}
