#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ravelin::fuzzing::path_and_pattern(data));
