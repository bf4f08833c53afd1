//! The pages, and the blocks of code in them.

use std::path::{Path, PathBuf};

/// What users read about how to use it: the README, and everything in `docs`.
pub(super) fn pages() -> Vec<Page> {
    let mut files = vec![PathBuf::from("README.md")];
    below(Path::new("docs"), &mut files);
    files.sort();
    files.iter().map(|file| Page::read(file)).collect()
}

/// Every Markdown file below a folder.
pub(super) fn below(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            below(&path, files);
        } else if path.extension().is_some_and(|it| it == "md") {
            files.push(path);
        }
    }
}

/// One file.
#[derive(Debug)]
pub(super) struct Page {
    /// From the repository's root.
    pub(super) file: PathBuf,
    pub(super) text: String,
}

/// A block of code between two fences.
#[derive(Debug)]
pub(super) struct Block {
    /// `docs/commands.md:12`
    pub(super) place: String,
    pub(super) language: String,
    pub(super) text: String,
    /// Whether nothing but blank lines is between it and the block before it.
    pub(super) follows: bool,
}

impl Page {
    pub(super) fn read(file: &Path) -> Self {
        let text = std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        Self { file: file.to_owned(), text }
    }

    pub(super) fn is(&self, file: &str) -> bool {
        self.file == Path::new(file)
    }

    /// All of them, in their order. A block in a list is indented, and given without that.
    pub(super) fn blocks(&self) -> Vec<Block> {
        let (mut blocks, mut open, mut follows) = (Vec::<Block>::new(), None, false);
        for (index, line) in self.text.lines().enumerate() {
            let fence = line.trim_start().strip_prefix("```");
            match (&mut open, fence) {
                (None, Some(language)) => {
                    let place = format!("{}:{}", self.file.display(), index + 1);
                    let indent = line.len() - line.trim_start().len();
                    let block = Block { place, language: language.trim().to_owned(), text: String::new(), follows };
                    open = Some((indent, block));
                }
                (None, None) => follows &= line.trim().is_empty(),
                (Some(_), Some(_)) => {
                    blocks.extend(open.take().map(|(_, block)| block));
                    follows = true;
                }
                (Some((indent, block)), None) => {
                    block.text.push_str(line.get(*indent..).unwrap_or_default());
                    block.text.push('\n');
                }
            }
        }
        assert!(open.is_none(), "{}: a block without an end", self.file.display());
        blocks
    }

    /// Those of one language.
    pub(super) fn blocks_of(&self, language: &str) -> Vec<Block> {
        self.blocks().into_iter().filter(|block| block.language == language).collect()
    }

    /// What stands between backticks in the text, outside of the blocks.
    pub(super) fn spans(&self) -> Vec<String> {
        let outside: String = self.text.split("```").step_by(2).collect::<Vec<_>>().join("\n\n");
        let paragraphs = outside.split("\n\n").map(|it| it.replace('\n', " "));
        paragraphs.flat_map(|text| text.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>()).collect()
    }
}

/// The commands of a block of shell: its lines, without those that are blank or only a comment. A line that is continued
/// is one, and so is one with the document that follows it (`<<END`).
pub(super) fn commands(text: &str) -> Vec<String> {
    let whole = text.replace("\\\n", " ");
    let mut lines = whole.lines();
    let mut commands = Vec::new();
    while let Some(line) = lines.next() {
        let mut command = line.trim().to_owned();
        let end = line.split_once("<<").map(|(_, end)| end.trim().trim_matches('\''));
        if let Some(end) = end {
            for line in lines.by_ref() {
                command.extend(["\n", line]);
                if line == end {
                    break;
                }
            }
        }
        if !command.is_empty() && !command.starts_with('#') {
            commands.push(command);
        }
    }
    commands
}
