//! Blocks of a Markdown file between markers, which belong to a program.

use anyhow::{Context, Result, bail};

const END: &str = "<!-- end of table -->";

/// What a block has to hold.
#[derive(Clone, Debug, PartialEq)]
pub struct Block {
    pub name: &'static str,
    /// Lines without a break at the end; empty where there is nothing to show.
    pub text: String,
}

impl Block {
    fn start(&self) -> String {
        format!("<!-- table: {} -->", self.name)
    }

    /// As it stands in the file.
    fn lines(&self) -> Vec<String> {
        let inside = self.text.lines().map(str::to_string);
        let empty = std::iter::once(String::new());
        match self.text.is_empty() {
            true => Vec::new(),
            // Markdown wants its tables and paragraphs apart from what surrounds them.
            false => empty.clone().chain(inside).chain(empty).collect(),
        }
    }
}

/// A file with its blocks filled in, and what is out of step in each that changed.
#[derive(Debug, PartialEq)]
pub struct Filled {
    pub text: String,
    /// `README.md, table h100, line 12:` and the two lines.
    pub differences: Vec<String>,
}

/// Fills in the blocks of the file, each of which must be there once.
pub fn fill(file: &str, text: &str, blocks: &[Block]) -> Result<Filled> {
    let lines: Vec<&str> = text.lines().collect();
    for (index, line) in lines.iter().enumerate() {
        let is_known = blocks.iter().any(|block| block.start() == *line);
        if line.starts_with("<!-- table: ") && !is_known {
            let names: Vec<&str> = blocks.iter().map(|block| block.name).collect();
            bail!("{file}, line {}: no table has the name in {line}; there are {}", index + 1, names.join(", "));
        }
    }
    let mut filled: Vec<String> = lines.iter().map(ToString::to_string).collect();
    let mut differences = Vec::new();
    for block in blocks {
        let starts = |lines: &[String]| {
            lines.iter().enumerate().filter(|(_, line)| **line == block.start()).map(|(at, _)| at).collect::<Vec<_>>()
        };
        let [start] = starts(&filled)[..] else {
            bail!("{file} must have the line {} once", block.start());
        };
        let end = filled[start..].iter().position(|line| line == END).map(|length| start + length);
        let end = end.with_context(|| format!("{file}: no line {END} after {}", block.start()))?;
        if let Some(inner) = filled[start + 1..end].iter().position(|line| line.starts_with("<!-- table: ")) {
            bail!("{file}, line {}: a table begins before the end of {}", start + inner + 2, block.start());
        }
        let wanted = block.lines();
        // The line numbers are those of the file as it is: blocks before this one may have grown.
        let at = lines.iter().position(|line| *line == block.start()).unwrap_or(start);
        differences.extend(difference(file, block.name, at + 1, &filled[start + 1..end], &wanted));
        filled.splice(start + 1..end, wanted);
    }
    let mut text = filled.join("\n");
    text.push('\n');
    Ok(Filled { text, differences })
}

fn difference(file: &str, name: &str, before: usize, present: &[String], wanted: &[String]) -> Option<String> {
    let common = present.iter().zip(wanted).take_while(|(a, b)| a == b).count();
    if common == present.len() && common == wanted.len() {
        return None;
    }
    let shown = |lines: &[String]| lines.get(common).map_or("(end of the table)".to_string(), Clone::clone);
    let line = before + common + 1;
    Some(format!("{file}, table {name}, line {line}:\n- {}\n+ {}", shown(present), shown(wanted)))
}

/// A table in Markdown.
pub fn table(head: &[String], rows: &[Vec<String>]) -> String {
    let cell = |text: &String| if text.is_empty() { " |".to_string() } else { format!(" {text} |") };
    let line = |cells: &[String]| format!("|{}", cells.iter().map(cell).collect::<String>());
    let rule = format!("|{}", " --- |".repeat(head.len()));
    let lines = std::iter::once(line(head)).chain(std::iter::once(rule)).chain(rows.iter().map(|row| line(row)));
    lines.collect::<Vec<_>>().join("\n")
}

/// A paragraph in lines of at most 140 characters.
pub fn paragraph(text: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= 140 => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_string()),
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# Title\n<!-- table: a -->\n\nold\n\n<!-- end of table -->\nbetween\n<!-- table: b -->\n<!-- end of table -->\nend\n";

    fn block(name: &'static str, text: &str) -> Block {
        Block { name, text: text.to_string() }
    }

    #[test]
    fn blocks_are_filled_and_the_rest_stays() {
        let filled = fill("F", TEXT, &[block("a", "new\nlines"), block("b", "")]).unwrap();
        let wanted = TEXT.replace("old", "new\nlines");
        assert_eq!(filled.text, wanted);
        assert_eq!(filled.differences, ["F, table a, line 4:\n- old\n+ new"]);
        // Once filled, nothing differs.
        let again = fill("F", &wanted, &[block("a", "new\nlines"), block("b", "")]).unwrap();
        assert_eq!((again.text, again.differences), (wanted, vec![]));
    }

    #[test]
    fn a_difference_has_the_line_of_the_file_as_it_is() {
        let filled = fill("F", TEXT, &[block("a", "old\nand\nmore"), block("b", "x")]).unwrap();
        assert_eq!(filled.differences[0], "F, table a, line 5:\n- \n+ and");
        assert_eq!(filled.differences[1], "F, table b, line 9:\n- (end of the table)\n+ ");
        let emptied = fill("F", TEXT, &[block("a", ""), block("b", "")]).unwrap();
        assert_eq!(emptied.differences, ["F, table a, line 3:\n- \n+ (end of the table)"]);
    }

    #[test]
    fn markers_must_fit() {
        let error = |text: &str, names: &[&'static str]| {
            let blocks: Vec<Block> = names.iter().map(|name| block(name, "x")).collect();
            fill("F", text, &blocks).unwrap_err().to_string()
        };
        assert!(error(TEXT, &["a"]).contains("line 8: no table has the name in <!-- table: b -->; there are a"));
        assert!(error(TEXT, &["a", "b", "c"]).contains("must have the line <!-- table: c --> once"));
        assert!(error(&TEXT.repeat(2), &["a", "b"]).contains("<!-- table: a --> once"));
        let without_end = TEXT.replacen("<!-- end of table -->\n", "", 1);
        assert!(
            error(&without_end, &["a", "b"]).contains("line 7: a table begins before the end of <!-- table: a -->")
        );
        assert!(error("<!-- table: a -->\n", &["a"]).contains("no line <!-- end of table -->"));
    }

    #[test]
    fn tables_and_paragraphs() {
        let cells = |cells: &[&str]| cells.iter().map(ToString::to_string).collect::<Vec<_>>();
        let text = table(&cells(&["", "f32"]), &[cells(&["softmax", "11.1 (1.21)"])]);
        assert_eq!(text, "| | f32 |\n| --- | --- |\n| softmax | 11.1 (1.21) |");
        let long = "word ".repeat(60);
        assert!(paragraph(&long).lines().all(|line| line.len() <= 140));
        assert_eq!(paragraph(&long).replace('\n', " "), long.trim());
    }
}
