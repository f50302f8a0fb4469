//! Segments that are made before they are needed: what a power loss leaves of them, and what of the entries in them.

use super::*;

/// Carries out everything there is to prepare.
fn prepare(log: &mut Log) -> Result<(), LogError> {
    while let Some(mut preparation) = log.preparation() {
        let result = loop {
            match preparation.step() {
                Ok(false) => {}
                other => break other.map(|_| ()),
            }
        };
        log.prepared(preparation, result)?;
    }
    Ok(())
}

/// A log with one entry in its first segment and its next segment ready.
fn ready(disk: &MemoryDisk) -> Opened {
    let mut opened = open_small(disk);
    opened.vote.save(Term(7), None).expect("saved");
    append(&mut opened.log, 1, 1, &[&[1; 3000]]).expect("written");
    opened.log.sync().expect("synced");
    prepare(&mut opened.log).expect("prepared");
    opened
}

const SECOND: &str = "wal-000000000002.log";

#[test]
fn going_on_in_a_prepared_segment_is_one_write_and_one_sync() {
    let disk = MemoryDisk::default();
    let mut opened = ready(&disk);
    // Two operations are let through: the batch's write and its sync.
    disk.fail_after(2);
    append(&mut opened.log, 2, 1, &[&[2; 3000]]).expect("written");
    opened.log.sync().expect("synced");
    assert!(!disk.has_failed());
    assert!(disk.bytes(&file(SECOND)).len() == 8192 && disk.bytes(&file(SECOND))[4096..7000].contains(&2));
    let expected = entries(&opened.log);
    drop(opened);
    disk.lose_power(&mut Dice::new(1));
    let opened = open_small(&disk);
    assert_eq!((opened.renewed.clone(), entries(&opened.log)), (None, expected));
}

#[test]
fn a_segment_may_be_prepared_halfway_wherever_the_power_goes() {
    for crash in 0..24 {
        for seed in 0..12 {
            let disk = MemoryDisk::default();
            let mut opened = open_small(&disk);
            opened.vote.save(Term(7), None).expect("saved");
            append(&mut opened.log, 1, 1, &[&[1; 3000]]).expect("written");
            opened.log.sync().expect("synced");
            disk.fail_after(crash);
            let mut durable = 1;
            for index in 2..=4 {
                let _ = prepare(&mut opened.log);
                let written = append(&mut opened.log, index, 1, &[&[index as u8; 3000]]);
                if written.and_then(|()| opened.log.sync()).is_ok() {
                    durable = index;
                }
            }
            drop(opened);
            disk.lose_power(&mut Dice::new(seed));
            let mut opened = open_small(&disk);
            assert_eq!(opened.renewed, None, "crash {crash}, seed {seed}");
            let found = count(&opened) as u64;
            assert!(found == durable || found == durable + 1, "crash {crash}, seed {seed}: {found} of {durable}");
            for index in found + 1..=found + 5 {
                prepare(&mut opened.log).expect("prepared");
                append(&mut opened.log, index, 7, &[&[index as u8; 2500]]).expect("goes on");
                opened.log.sync().expect("synced");
            }
            let expected = entries(&opened.log);
            drop(opened);
            assert_eq!(entries(&open_small(&disk).log), expected);
        }
    }
}

#[test]
fn a_durable_batch_that_rots_at_the_start_of_a_prepared_segment_is_no_torn_tail() {
    let disk = MemoryDisk::default();
    let mut opened = ready(&disk);
    for index in 2..=3 {
        append(&mut opened.log, index, 1, &[&[index as u8; 1000]]).expect("written");
        opened.log.sync().expect("synced");
    }
    prepare(&mut opened.log).expect("prepared");
    drop(opened);
    for at in FIRST_BATCH as usize..FIRST_BATCH as usize + 1000 {
        let disk = disk.copy();
        disk.tamper(&file(SECOND), |bytes| bytes[at] ^= 4);
        assert!(open_small(&disk).renewed.is_some(), "byte {at}");
    }
    let disk = disk.copy();
    disk.tamper(&file(SECOND), |bytes| bytes[FIRST_BATCH as usize..].fill(0));
    let lost = open_small(&disk);
    // Nothing is left that could tell: as with everything behind the last sync.
    assert_eq!((lost.renewed.clone(), count(&lost)), (None, 1));
}

#[test]
fn a_log_goes_on_where_the_next_segment_is_late_or_cannot_be_made() {
    let disk = MemoryDisk::default();
    let mut opened = open_small(&disk);
    opened.vote.save(Term(7), None).expect("saved");
    append(&mut opened.log, 1, 1, &[&[1; 3000]]).expect("written");
    let mut late = opened.log.preparation().expect("something to do");
    assert!(opened.log.preparation().is_none(), "one at a time");
    late.step().expect("made");
    append(&mut opened.log, 2, 1, &[&[2; 3000]]).expect("goes on without it");
    while !late.step().expect("done") {}
    opened.log.prepared(late, Ok(())).expect("taken for the one after");
    append(&mut opened.log, 3, 1, &[&[3; 3000]]).expect("written");
    let refused = opened.log.preparation().expect("something to do");
    opened.log.prepared(refused, Err(std::io::Error::other("no space"))).expect("no reason to stop");
    assert!(opened.log.preparation().is_none(), "not tried again at once");
    append(&mut opened.log, 4, 1, &[&[4; 3000]]).expect("written");
    assert!(opened.log.preparation().is_some());
    opened.log.sync().expect("synced");
    let expected = entries(&opened.log);
    drop(opened);
    assert_eq!(entries(&open_small(&disk).log), expected);
}
