#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ravelin::fuzzing::express_head(data));
