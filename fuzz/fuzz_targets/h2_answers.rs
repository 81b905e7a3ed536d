#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ravelin::fuzzing::h2_answers(data));
