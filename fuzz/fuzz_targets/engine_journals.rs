#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| quorate::fuzzing::check("engine_journals", data));
