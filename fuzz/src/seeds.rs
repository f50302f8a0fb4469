//! Writes the valid inputs that each target begins from into `corpus/<target>/`, named by what is in them.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

fn main() -> std::io::Result<()> {
    for target in quorate::fuzzing::TARGETS {
        let folder = Path::new("corpus").join(target.name);
        std::fs::create_dir_all(&folder)?;
        for seed in (target.seeds)() {
            let mut hasher = DefaultHasher::new();
            seed.hash(&mut hasher);
            std::fs::write(folder.join(format!("seed-{:016x}", hasher.finish())), seed)?;
        }
    }
    Ok(())
}
