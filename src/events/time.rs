//! How is a moment written? As RFC 3339 says, in UTC, or relative to now.

use jiff::{SignedDuration, Timestamp};

/// Milliseconds since 1970, as RFC 3339.
pub(crate) fn rfc3339(unix_ms: u64) -> String {
    let ms = i64::try_from(unix_ms).unwrap_or(i64::MAX);
    let time = Timestamp::from_millisecond(ms).unwrap_or(Timestamp::MAX);
    format!("{time:.3}")
}

/// A moment in milliseconds since 1970: RFC 3339, or so long before `now` as in `-2h`, `-90s`, `-1d`, `-1h30m`.
pub(crate) fn parse_time(text: &str, now_ms: u64) -> Result<u64, String> {
    let bad = || {
        let remedy = "write for example 2026-03-01T14:02:00Z, or -2h for two hours ago";
        format!("bad value {text:?} (at): it is no time; {remedy}")
    };
    let ms = match text.strip_prefix('-') {
        Some(ago) => {
            let now = i64::try_from(now_ms).unwrap_or(i64::MAX);
            now.checked_sub(duration_ms(ago).ok_or_else(bad)?)
        }
        None => text.parse::<Timestamp>().ok().map(Timestamp::as_millisecond),
    };
    ms.and_then(|ms| u64::try_from(ms).ok()).ok_or_else(bad)
}

/// `1d2h3m4s`, each part at most once and in this order or any other.
fn duration_ms(text: &str) -> Option<i64> {
    let mut total = SignedDuration::ZERO;
    let mut rest = text;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: i64 = rest[..digits].parse().ok()?;
        let unit = rest[digits..].chars().next()?;
        let seconds = match unit {
            'd' => 86_400,
            'h' => 3_600,
            'm' => 60,
            's' => 1,
            _ => return None,
        };
        total = total.checked_add(SignedDuration::from_secs(number.checked_mul(seconds)?))?;
        rest = &rest[digits + 1..];
    }
    i64::try_from(total.as_millis()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_as_they_are_written() {
        let now = 1_772_373_720_123;
        assert_eq!(rfc3339(now), "2026-03-01T14:02:00.123Z");
        assert_eq!(parse_time(&rfc3339(now), 0), Ok(now));
        assert_eq!(parse_time("2026-03-01T15:02:00.123+01:00", 0), Ok(now));
        assert_eq!(parse_time("-2h", now), Ok(now - 7_200_000));
        assert_eq!(parse_time("-1d30m5s", now), Ok(now - 86_400_000 - 1_805_000));
        for bad in ["", "-", "-2", "-h", "-2x", "2h", "yesterday", "2026-03-01", "-99999999999d"] {
            assert!(parse_time(bad, now).unwrap_err().contains("write for example"), "{bad}");
        }
    }
}
