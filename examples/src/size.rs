//! Sizes as people write them: `64MiB`, `1GiB`, `4096`.
//!
//! Guarantees that a size is exact or refused. Called by the command line.

/// Reads a size in bytes.
pub fn parse(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 =
        number.parse().map_err(|_| format!("'{text}' does not start with a number"))?;
    let shift = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        other => return Err(format!("'{other}' is no unit; known are KiB, MiB, GiB and TiB")),
    };
    number.checked_mul(1 << shift).ok_or_else(|| format!("'{text}' is too large"))
}

/// Writes a size with at most one digit behind the point.
pub fn show(bytes: u64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match units.iter().find(|(_, shift)| bytes >= 1 << shift) {
        Some((unit, shift)) => format!("{:.1} {unit}", bytes as f64 / (1_u64 << shift) as f64),
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_written() {
        assert_eq!(parse("64MiB"), Ok(64 << 20));
        assert_eq!(parse("1 gib"), Ok(1 << 30));
        assert_eq!(parse("4096"), Ok(4096));
        for bad in ["", "MiB", "1.5GiB", "5 parsecs", "99999999999TiB", "-1"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert_eq!(show(1536), "1.5 KiB");
    }
}
