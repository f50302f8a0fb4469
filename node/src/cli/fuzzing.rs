//! What the parsers of settings promise of any text: see [`crate::fuzzing`].

use super::{file, units};

/// Any text, as each kind of setting and as a file of them.
pub(crate) fn settings(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(duration) = units::duration(text) {
        let shown = units::show_duration(duration);
        let again = units::duration(&shown);
        let off = again.map(|again| again.abs_diff(duration));
        // Whole microseconds are shown, and from a millisecond on three decimals of the unit.
        let most = 1e-6 + 0.000_51 * duration.as_secs_f64();
        assert!(off.is_ok_and(|off| off.as_secs_f64() <= most), "{text:?}: {shown}");
    }
    if let Ok((low, high)) = units::range(text) {
        assert!(low <= high, "{text:?}");
    }
    if let Ok(size) = units::size(text) {
        let shown = units::show_size(size);
        let again = units::size(&shown);
        assert!(again.is_ok_and(|again| again.abs_diff(size) <= size / 16), "{text:?}: {shown}");
        assert_eq!(units::size_in_memory(text).map(|bytes| bytes as u64), Ok(size));
    }
    let _ = units::switch(text);
    if let Ok(settings) = file::parse("f", text) {
        for (name, (value, line)) in settings {
            assert!(!name.is_empty() && line <= text.lines().count());
            if !value.contains(['"', '\'']) {
                // In quotes, for blanks around a value count there; and exported, for a name
                // that would begin a comment.
                let again = file::parse("f", &format!("export {name}=\"{value}\""));
                assert!(again.is_ok_and(|again| again.get(&name) == Some(&(value, 1))), "{name:?}");
            }
        }
    }
}

pub(crate) fn setting_seeds() -> Vec<Vec<u8>> {
    ["150us", "0.1ms", "1.5 s", "500ms-1s", "24h", "64MiB", "1.5k", "9007199254740992", "yes", "µs", "1µs"]
        .map(|text| text.as_bytes().to_vec())
        .into_iter()
        .chain([b"# a node\n\nexport ID=node7\nMIN_DELAY = 0.1ms\nDATA_DIR=\"/var/lib/my data\"\nA='\t'\nexport #=b\n"
            .to_vec()])
        .collect()
}
