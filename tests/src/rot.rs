//! Rot in an engine's files, of which nothing but their place is known.

use std::path::Path;

/// Flips a bit in the middle of every file in this folder of an engine's, and in the folders below.
///
/// # Panics
/// If there is none, or one cannot be changed.
pub fn rot_files(folder: &Path) {
    let (mut folders, mut rotten) = (vec![folder.to_owned()], 0);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
            if entry.is_dir() {
                folders.push(entry);
                continue;
            }
            // The number of its format is left: a node must take another one for another version's, not for damage.
            let named = entry.file_name().is_some_and(|name| name == "version");
            let mut bytes = std::fs::read(&entry).expect("a file");
            let middle = bytes.len() / 2;
            if let Some(byte) = bytes.get_mut(middle).filter(|_| !named) {
                *byte ^= 0x10;
                std::fs::write(&entry, bytes).expect("written");
                rotten += 1;
            }
        }
    }
    assert!(rotten > 0, "nothing in {}", folder.display());
}
