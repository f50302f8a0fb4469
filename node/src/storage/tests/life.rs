//! A log written, cut, overwritten and robbed of its power at random, beside a model of what may be found.

use proptest::prelude::*;

use super::*;

/// What the log may look like: entries by index, as far as they matter.
type Model = std::collections::BTreeMap<u64, (u64, Vec<u8>)>;

/// Writes at random, loses power at random, and looks whether what is found is one of the states that may be.
fn random_life(seed: u64) {
    let mut dice = Dice::new(seed);
    let disk = MemoryDisk::default();
    // The last state is the newest; the first was durable for certain.
    let mut states: Vec<Model> = vec![Model::new()];
    let (mut cut, mut term, mut voted) = (0, 1, 0);
    let mut id = None;
    for _life in 0..6 {
        if dice.below(3) == 0 {
            // The power goes again while the last loss is recovered from.
            disk.fail_after(dice.below(14));
            drop(open(Path::new(DIR), Arc::new(disk.clone()), &limits(2 * FIRST_BATCH)));
            disk.lose_power(&mut dice);
        }
        let mut opened = open_small(&disk);
        assert_eq!(opened.renewed, None, "seed {seed}");
        assert_eq!(*id.get_or_insert(opened.meta.id()), opened.meta.id(), "seed {seed}");
        assert!(opened.term.0 >= voted, "seed {seed}: the vote of term {voted} is forgotten");
        assert!(opened.start.index.0 <= cut, "seed {seed}");
        assert!(opened.commit <= opened.log.last().index, "seed {seed}");
        let found: Model = entries(&opened.log).into_iter().map(|(i, t, p)| (i, (t, p))).collect();
        assert_eq!(found.len(), opened.heads.len());
        let start = opened.start.index.0;
        let fits = |state: &Model| state.range(start + 1..).eq(found.iter());
        assert!(states.iter().any(fits), "seed {seed}: found {:?}, none of {} states", found.keys(), states.len());
        states = vec![found];
        term = term.max(opened.term.0) + 1;
        if opened.vote.save(Term(term), None).is_err() {
            panic!("no failure was asked for yet");
        }
        voted = term;
        disk.fail_after(10 + dice.below(60));
        let mut pending: Option<Preparation> = None;
        while !disk.has_failed() {
            let now = states.last().cloned().unwrap_or_default();
            let (start, last) = (opened.log.start().index.0, opened.log.last().index.0);
            let done = match dice.below(16) {
                12.. => {
                    pending = pending.or_else(|| opened.log.preparation());
                    match pending.as_mut().map(Preparation::step) {
                        None | Some(Ok(false)) => Ok(()),
                        Some(result) => match pending.take() {
                            Some(preparation) => opened.log.prepared(preparation, result.map(|_| ())),
                            None => Ok(()),
                        },
                    }
                }
                0..=5 => {
                    // What was cut was committed, and is not overwritten.
                    let floor = cut.max(start).min(last);
                    let back = if dice.below(4) == 0 { dice.below(last - floor + 1) } else { 0 };
                    let first = last + 1 - back;
                    let payloads: Vec<Vec<u8>> =
                        (0..=dice.below(3)).map(|_| vec![dice.below(256) as u8; dice.below(900) as usize]).collect();
                    let slices: Vec<&[u8]> = payloads.iter().map(Vec::as_slice).collect();
                    let mut next = now;
                    next.split_off(&first);
                    next.extend((first..).zip(payloads.iter().map(|p| (term, p.clone()))));
                    states.push(next.clone());
                    if dice.below(2) == 0 {
                        append(&mut opened.log, first, term, &slices)
                    } else {
                        let done = append_durably(&mut opened.log, first, term, &slices);
                        if done.is_ok() {
                            states = vec![next];
                        }
                        done
                    }
                }
                6..=8 => {
                    let done = opened.log.sync();
                    if done.is_ok() {
                        states = vec![now];
                    }
                    done
                }
                9 => {
                    cut = cut.max(dice.below(last + 1));
                    opened.log.cut(Index(cut))
                }
                10 if dice.below(4) == 0 => {
                    let position = last + 5;
                    cut = cut.max(position);
                    // The snapshot stands for everything before.
                    states.push(Model::new());
                    let done = opened.log.reset(Position::new(position, term));
                    if done.is_ok() {
                        states = vec![Model::new()];
                    }
                    done
                }
                _ => {
                    let done = opened.vote.save(Term(term + 1), None);
                    term += 1;
                    if done.is_ok() {
                        voted = term;
                    }
                    done.map_err(|_| LogError::Failed)
                }
            };
            if done.is_err() {
                break;
            }
        }
        drop(pending);
        drop(opened);
        disk.lose_power(&mut dice);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn whatever_happens_what_was_synced_is_there_and_nothing_that_was_never_written(seed: u64) {
        random_life(seed);
    }
}

/// The same lives notice what is broken on purpose in the log's use of the disk.
#[cfg(feature = "bugs")]
#[test]
fn a_broken_rule_of_the_log_is_noticed_within_its_seeds() {
    use quorum::bugs::{self, Bug};
    for (bug, seeds) in [(Bug::RollWithoutSync, 100), (Bug::SyncSkipped, 20), (Bug::VoteNotSynced, 20)] {
        let noticed = |seed| bugs::with(&[bug], || std::panic::catch_unwind(|| random_life(seed)).is_err());
        assert!((0..seeds).any(noticed), "{} is not found in {seeds} seeds", bug.name());
    }
}
