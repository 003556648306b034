//! Everything that may happen, in any order.

#![no_main]

use fuzz::Story;
use fuzz::story::Step;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|story: Story<Step>| fuzz::play(story));
