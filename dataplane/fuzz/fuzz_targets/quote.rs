//! The way of ICMP errors and of the packets that they quote.

#![no_main]

use fuzz::Story;
use fuzz::story::QuoteStep;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|story: Story<QuoteStep>| fuzz::play(story));
