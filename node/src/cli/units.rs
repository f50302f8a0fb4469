//! Durations, sizes and ranges as people write them: `0.1ms`, `64MiB`, `500ms-1s`.
//!
//! Parsing and printing only; whether a value makes sense where it is used is [`super::settings`]'s to say. Every
//! message is one sentence that says what would have been right, for clap puts it behind the name of the flag.

use std::time::Duration;

/// The longest duration that can be set: a day. Anything above is a slip of units.
const DURATION_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Parses `150us`, `0.1ms`, `2s`, `1m`, `1h`; a bare number is milliseconds.
///
/// # Errors
/// One sentence, for people.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong =
        || format!("{text:?} is no duration: write a number and ms, s, m, h or us (a bare number is milliseconds)");
    let (number, unit) = split(text);
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let seconds = match unit {
        "us" | "µs" => number / 1e6,
        "ms" | "" => number / 1e3,
        "s" => number,
        "m" | "min" => number * 60.0,
        "h" => number * 3600.0,
        _ => return Err(wrong()),
    };
    // NaN, infinities and negative numbers are refused here.
    let duration = Duration::try_from_secs_f64(seconds).map_err(|_| wrong())?;
    if duration > DURATION_MAX {
        return Err(format!("{text:?} is more than a day: give a shorter time"));
    }
    Ok(duration)
}

/// Parses a range of durations, `500ms-1s`; one duration alone stands for both ends.
///
/// # Errors
/// One sentence, for people.
pub(crate) fn range(text: &str) -> Result<(Duration, Duration), String> {
    let Some((low, high)) = text.split_once('-') else {
        let both = duration(text)?;
        return Ok((both, both));
    };
    let (low, high) = (duration(low)?, duration(high)?);
    if low > high {
        return Err(format!("{text:?} is no range: put the shorter time first, as in 500ms-1s"));
    }
    Ok((low, high))
}

/// Parses `512`, `4KiB`, `64MiB`, `1GiB`, `10MB`; a bare number is bytes.
///
/// # Errors
/// One sentence, for people.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no size: write a number and KiB, MiB or GiB (a bare number is bytes)");
    let (number, unit) = split(text);
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let factor: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "ki" | "kib" => 1 << 10,
        "m" | "mi" | "mib" => 1 << 20,
        "g" | "gi" | "gib" => 1 << 30,
        "t" | "ti" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err(wrong()),
    };
    let bytes = number * factor as f64;
    // 2^53: beyond it a float no longer tells neighbouring integers apart, and no disk is that large.
    if !(0.0..=9_007_199_254_740_992.0).contains(&bytes) {
        return Err(wrong());
    }
    Ok(bytes.round() as u64)
}

/// As [`size`], for bounds of memory.
///
/// # Errors
/// One sentence, for people.
pub(crate) fn size_in_memory(text: &str) -> Result<usize, String> {
    usize::try_from(size(text)?).map_err(|_| format!("{text:?} is more than this machine can address: give less"))
}

/// Parses `yes` and `no` in the forms that flags, environment and files use.
///
/// # Errors
/// One sentence, for people.
pub(crate) fn switch(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Ok(true),
        "false" | "no" | "off" | "0" => Ok(false),
        _ => Err(format!("{text:?} is neither true nor false")),
    }
}

/// A duration in the largest unit that shows it in few digits.
pub(crate) fn show_duration(duration: Duration) -> String {
    let micros = duration.as_micros();
    let trimmed = |value: f64, unit: &str| {
        let text = format!("{value:.3}");
        format!("{}{unit}", text.trim_end_matches('0').trim_end_matches('.'))
    };
    match micros {
        0 => "0ms".to_owned(),
        1..1_000 => format!("{micros}us"),
        1_000..1_000_000 => trimmed(micros as f64 / 1e3, "ms"),
        _ => trimmed(duration.as_secs_f64(), "s"),
    }
}

/// A size in the largest unit that divides it, or with one decimal.
pub(crate) fn show_size(bytes: u64) -> String {
    for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if bytes >= 1 << shift {
            let whole = bytes.is_multiple_of(1 << shift);
            let value = bytes as f64 / (1u64 << shift) as f64;
            return if whole { format!("{value:.0}{unit}") } else { format!("{value:.1}{unit}") };
        }
    }
    format!("{bytes}B")
}

/// The number at the start, and the unit after it.
fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    (&text[..end], text[end..].trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_in_every_unit_and_a_bare_number_is_milliseconds() {
        for (text, micros) in [
            ("0", 0),
            ("5", 5_000),
            ("0.1ms", 100),
            ("150us", 150),
            ("1s", 1_000_000),
            ("1.5 s", 1_500_000),
            ("2m", 120_000_000),
            ("1h", 3_600_000_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_micros(micros)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused_with_a_sentence_that_shows_the_form() {
        for text in ["", "ms", "-1s", "1 fortnight", "1.2.3s", "NaN", "inf", "1e400"] {
            let message = duration(text).expect_err(text);
            assert!(message.contains("a bare number is milliseconds"), "{message}");
        }
        assert!(duration("25h").expect_err("long").contains("more than a day"));
    }

    #[test]
    fn a_range_has_two_ends_in_order_or_one_for_both() {
        let ms = Duration::from_millis;
        assert_eq!(range("500ms-1s"), Ok((ms(500), ms(1000))));
        assert_eq!(range("300-600"), Ok((ms(300), ms(600))));
        assert_eq!(range("1s"), Ok((ms(1000), ms(1000))));
        assert!(range("1s-500ms").expect_err("reversed").contains("shorter time first"));
        assert!(range("a-b").is_err());
    }

    #[test]
    fn sizes_are_read_in_binary_and_decimal_units() {
        for (text, bytes) in [
            ("512", 512),
            ("4KiB", 4096),
            ("64MiB", 64 << 20),
            ("1Gi", 1 << 30),
            ("1.5k", 1536),
            ("10MB", 10_000_000),
            ("0", 0),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "MiB", "-1", "5 apples", "99999999TiB"] {
            assert!(size(text).expect_err(text).contains("a bare number is bytes"), "{text}");
        }
    }

    #[test]
    fn what_is_printed_can_be_read_again() {
        for micros in [0, 100, 1_500, 250_000, 1_000_000, 90_500_000] {
            let d = Duration::from_micros(micros);
            assert_eq!(duration(&show_duration(d)), Ok(d));
        }
        for bytes in [0, 12, 4096, 64 << 20, 3 << 30] {
            assert_eq!(size(&show_size(bytes)), Ok(bytes));
        }
    }

    #[test]
    fn switches_know_the_usual_words() {
        assert_eq!(switch("YES"), Ok(true));
        assert_eq!(switch("0"), Ok(false));
        assert!(switch("perhaps").is_err());
    }
}
