//! How are large numbers and times written for people?

/// `1234567` as `1.2 M`; small numbers as they are.
pub(crate) fn count(value: u64) -> String {
    scaled(value, 10_000).map_or_else(|| value.to_string(), |(v, unit)| format!("{v:.1} {unit}"))
}

/// `1` and `session` as `1 session`, more as `2 sessions`.
pub(crate) fn counted(value: u64, what: &str) -> String {
    let end = match what {
        _ if value == 1 => "",
        _ if what.ends_with("address") => "es",
        _ => "s",
    };
    format!("{} {what}{end}", count(value))
}

/// `1234567` as `1.2 MB`.
pub(super) fn bytes(value: u64) -> String {
    scaled(value, 1_000).map_or_else(|| format!("{value} B"), |(v, unit)| format!("{v:.1} {unit}B"))
}

fn scaled(value: u64, from: u64) -> Option<(f64, char)> {
    if value < from {
        return None;
    }
    let mut scaled = value as f64;
    let mut units = ['k', 'M', 'G', 'T', 'P', 'E'].into_iter();
    let mut unit = units.next()?;
    scaled /= 1000.0;
    // What would round to 1000.0 takes the next unit.
    while scaled >= 999.95 {
        unit = units.next()?;
        scaled /= 1000.0;
    }
    Some((scaled, unit))
}

/// Milliseconds as `0.4s`, `12s`, `3m20s`, `2h04m`, `3d02h`.
pub(crate) fn millis(value: u64) -> String {
    let seconds = value / 1000;
    match seconds {
        0..10 => format!("{:.1}s", value as f64 / 1000.0),
        10..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// Nanoseconds as `850 ns`, `12.3 µs`, `4.5 ms`; nothing as `-`.
pub(crate) fn nanos(value: Option<u64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(value @ 0..1_000) => format!("{value} ns"),
        Some(value @ 1_000..1_000_000) => format!("{:.1} µs", value as f64 / 1e3),
        Some(value) => format!("{:.1} ms", value as f64 / 1e6),
    }
}

/// How long ago a second since 1970 was.
pub(super) fn ago(second: u64) -> String {
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
    format!("{} ago", millis(now.saturating_sub(second) * 1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        assert_eq!(count(0), "0");
        assert_eq!(count(9_999), "9999");
        assert_eq!(count(12_345), "12.3 k");
        assert_eq!(count(999_950), "1.0 M");
        assert_eq!(count(u64::MAX), "18.4 E");
        let blocks = [0, 1, 2, 20_000].map(|value| counted(value, "block"));
        assert_eq!(blocks, ["0 blocks", "1 block", "2 blocks", "20.0 k blocks"]);
        assert_eq!([1, 2].map(|it| counted(it, "address")), ["1 address", "2 addresses"]);
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(3_400_000), "3.4 MB");
        assert_eq!([None, Some(850), Some(12_340)].map(nanos), ["-", "850 ns", "12.3 µs"]);
        assert_eq!(millis(400), "0.4s");
        assert_eq!(millis(200_000), "3m20s");
        assert_eq!(millis(7_440_000), "2h04m");
        assert_eq!(millis(93_600_000), "1d02h");
    }
}
