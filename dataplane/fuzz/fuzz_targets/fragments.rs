//! The way of fragments: both sides, any order, overlaps, losses, floods.

#![no_main]

use fuzz::Story;
use fuzz::story::FragmentStep;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|story: Story<FragmentStep>| fuzz::play(story));
