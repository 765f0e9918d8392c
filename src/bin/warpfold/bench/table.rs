//! The tables on the terminal: a line a row, as it is measured.

use super::record::Record;

/// The columns of ceilings and results.
pub fn header() -> String {
    format!(
        "{:<19} {:<5} {:<38} {:>10} {:>8} {:>8} {:>9} {:>9}  {}",
        "operation", "dtype", "problem", "median ms", "spread", "rate", "", "of roof", "error, note"
    )
}

/// A ceiling or a result.
pub fn line(record: &Record) -> String {
    let Record { operation, dtype, problem, unit, note, .. } = record;
    let mut text = format!("{operation:<19} {dtype:<5} {problem:<38}");
    if let (Some(median), Some(p10), Some(p90)) = (record.median_ms, record.p10_ms, record.p90_ms) {
        let spread = format!("{:+.0}{:+.0}%", 100.0 * (p10 / median - 1.0), 100.0 * (p90 / median - 1.0));
        text += &format!(" {median:>10} {spread:>8}");
    } else {
        text += &format!(" {:>10} {:>8}", "", "");
    }
    match record.rate {
        Some(rate) => text += &format!(" {:>8} {unit:<9}", figure(rate)),
        None => text += &format!(" {:>8} {:<9}", "", ""),
    }
    let fraction = record.fraction.map_or(String::new(), |fraction| format!("{:.0} %", 100.0 * fraction));
    let error = record.error.map_or(String::new(), |error| format!("{error:.2}"));
    let rest = [error, note.clone()].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("  ");
    text += &format!(" {fraction:>9}  {rest}");
    text.trim_end().to_string()
}

/// A rate with the digits that it has.
fn figure(rate: f64) -> String {
    if rate >= 100.0 { format!("{rate:.0}") } else { format!("{rate:.1}") }
}

/// The columns of overheads.
pub fn overhead_header() -> String {
    format!(
        "{:<19} {:<5} {:>24} {:>24} {:>24}",
        "operation", "dtype", "prepared call, us", "plan, us", "allocating call, us"
    )
}

/// The figures of one operation, in that order.
pub fn overhead_line(records: &[&Record]) -> String {
    let mut text = records.first().map_or(String::new(), |one| format!("{:<19} {:<5}", one.operation, one.dtype));
    for record in records {
        let us = |time: Option<f64>| time.unwrap_or(f64::NAN) * 1e3;
        let figures = format!("{:.2} ({:.2}..{:.2})", us(record.median_ms), us(record.p10_ms), us(record.p90_ms));
        text += &format!(" {figures:>24}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            operation: "softmax forward".to_string(),
            dtype: "bf16".to_string(),
            problem: "1024x1024".to_string(),
            median_ms: Some(0.5),
            p10_ms: Some(0.45),
            p90_ms: Some(0.6),
            rate: Some(8.4),
            unit: "GB/s".to_string(),
            fraction: Some(0.42),
            error: Some(0.3),
            note: "a note".to_string(),
            ..Record::default()
        }
    }

    #[test]
    fn columns_stand_below_their_names() {
        let (header, line) = (header(), line(&record()));
        for (name, value) in [("dtype", "bf16"), ("problem", "1024x1024"), ("error", "0.30  a note")] {
            assert_eq!(header.find(name), line.find(value), "{header}\n{line}");
        }
        for (name, value) in [("median ms", "0.5 "), ("spread", "-10+20%"), ("of roof", "42 %")] {
            let end = |text: &str, part: &str| text.find(part).map(|at| at + part.trim_end().len());
            assert_eq!(end(&header, name), end(&line, value), "{header}\n{line}");
        }
        assert!(line.contains("8.4 GB/s"), "{line}");
    }

    #[test]
    fn what_is_not_there_leaves_its_place_empty() {
        let empty = Record { median_ms: None, rate: None, fraction: None, ..record() };
        assert_eq!(header().find("error"), line(&empty).find("0.30"), "{}", line(&empty));
    }

    #[test]
    fn overheads_are_microseconds() {
        let text = overhead_line(&[&record(), &record(), &record()]);
        assert_eq!(text.matches("500.00 (450.00..600.00)").count(), 3, "{text}");
        assert_eq!(overhead_header().len(), text.len());
    }
}
