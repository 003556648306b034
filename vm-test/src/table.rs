//! How do measured rows get into a document?

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

/// A table of a document of the project. Its rows begin with a key and are kept in the order of the keys; what stands
/// around it stays.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// The document, from the project's directory.
    pub document: &'static str,
    /// The line of Markdown that heads it.
    pub head: &'static str,
    /// The environment variable that has rows written.
    pub wish: &'static str,
}

impl Table {
    /// Puts a row into the document, in the place of the one with the same first `keys` cells, if the environment says
    /// so; prints it in any case.
    pub fn note(&self, keys: usize, cells: &[String]) -> Result<()> {
        let row = format!("| {} |", cells.join(" | "));
        println!("{row}");
        if std::env::var_os(self.wish).is_none() {
            return Ok(());
        }
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(self.document);
        // Other tests may write at the same time.
        let alone = File::open(&path)?;
        alone.lock()?;
        let text = fs::read_to_string(&path)?;
        fs::write(&path, self.with_row(&text, keys, cells)?)?;
        Ok(())
    }

    /// Every row of the document.
    pub fn rows(&self) -> Result<Vec<Vec<String>>> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(self.document);
        let (_, rows, _) = self.parts(&fs::read_to_string(path)?)?;
        Ok(rows)
    }

    fn with_row(&self, text: &str, keys: usize, cells: &[String]) -> Result<String> {
        let (before, mut rows, after) = self.parts(text)?;
        rows.retain(|row| row[..keys.min(row.len())] != cells[..keys]);
        rows.push(cells.to_vec());
        rows.sort();
        let lines: Vec<_> = rows.iter().map(|row| format!("| {} |\n", row.join(" | "))).collect();
        Ok([before, lines.concat(), after].concat())
    }

    /// What stands before the rows, these, and what stands behind them.
    fn parts(&self, text: &str) -> Result<(String, Vec<Vec<String>>, String)> {
        let at = text.find(self.head).with_context(|| format!("no table in {}", self.document))?;
        let mut lines = text[at..].split_inclusive('\n');
        let head: String = lines.by_ref().take(2).collect();
        ensure!(head.ends_with("|\n"), "half a table in {}", self.document);
        let rows: String = lines.take_while(|line| line.starts_with('|')).collect();
        let cells = |row: &str| -> Vec<String> {
            let row = row.trim().trim_matches('|');
            row.split(" | ").map(|cell| cell.trim().to_owned()).collect()
        };
        let columns = cells(self.head).len();
        let end = at + head.len() + rows.len();
        let before = text[..at + head.len()].to_owned();
        let rows: Vec<Vec<String>> = rows.lines().map(cells).collect();
        if let Some(row) = rows.iter().find(|row| row.len() != columns) {
            bail!(
                "a row of {} cells in a table of {columns} ({}): {}",
                row.len(),
                self.document,
                row.join(" | ")
            );
        }
        Ok((before, rows, text[end..].to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: Table = Table { document: "docs/none.md", head: "| name | value |", wish: "NONE" };

    #[test]
    fn a_row_takes_the_place_of_its_like_and_the_rest_stays() {
        let text = "before\n\n| name | value |\n| --- | --- |\n| b | 2 |\n\nafter | all\n";
        let cells = |row: [&str; 2]| row.map(str::to_owned);
        let one = TABLE.with_row(text, 1, &cells(["a", "1"])).unwrap();
        let rows = "| a | 1 |\n| b | 2 |\n";
        assert_eq!(
            one,
            format!("before\n\n| name | value |\n| --- | --- |\n{rows}\nafter | all\n")
        );
        let other = TABLE.with_row(&one, 1, &cells(["b", "3"])).unwrap();
        assert_eq!(other, one.replace("| b | 2 |", "| b | 3 |"));
        TABLE.with_row("no table", 1, &cells(["b", "3"])).unwrap_err();
        let strange = text.replace("| b | 2 |", "| b | 2 |\n| c |");
        TABLE.with_row(&strange, 1, &cells(["b", "3"])).unwrap_err();
    }
}
