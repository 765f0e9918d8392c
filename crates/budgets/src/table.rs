//! Tables of text.

use std::fmt::Write as _;

/// Rows under heads: the first column begins at the left, the others end at the right.
pub struct Table {
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// Without rows yet.
    pub fn new<'a>(heads: impl IntoIterator<Item = &'a str>) -> Table {
        Table { rows: vec![heads.into_iter().map(str::to_string).collect()] }
    }

    /// The lines.
    pub fn text(&self) -> String {
        let columns = self.rows[0].len();
        let width = |column: usize| {
            // A row that is cut short ends in a sentence, which needs no column.
            let cells = self.rows.iter().filter(|row| row.len() == columns || column + 1 < row.len());
            cells.filter_map(|row| row.get(column)).map(String::len).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        let mut previous = "";
        for row in &self.rows {
            for (column, cell) in row.iter().enumerate() {
                let width = widths[column];
                // One name for all loops of a kernel.
                let cell = if column == 0 && cell == previous { "" } else { cell.as_str() };
                let is_sentence = row.len() < columns && column + 1 == row.len();
                let _ = match (column, is_sentence) {
                    (0, _) => write!(text, "{cell:<width$}"),
                    (_, true) => write!(text, "  {cell}"),
                    _ => write!(text, " {cell:>width$}"),
                };
            }
            text.truncate(text.trim_end().len());
            text.push('\n');
            previous = row.first().map_or("", String::as_str);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(["kernel", "a", "bb"]);
        table.rows.push(vec!["one".to_string(), "100".to_string(), "1".to_string()]);
        table.rows.push(vec!["one".to_string(), "2".to_string(), String::new()]);
        table.rows.push(vec!["two".to_string(), "not run: it is too long".to_string()]);
        let expected = "kernel   a bb\none    100  1\n         2\ntwo     not run: it is too long\n";
        assert_eq!(table.text(), expected);
    }
}
