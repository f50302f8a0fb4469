#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| quorate::fuzzing::check("http_requests", data));
