//! Every link within the repository leads somewhere, and every page can be reached.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use regex::Regex;

use super::pages::{Page, below};

fn all() -> Vec<Page> {
    let mut files: Vec<PathBuf> = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(PathBuf::from).into();
    for folder in ["docs", "benches", "examples", "fuzz"] {
        below(Path::new(folder), &mut files);
    }
    files
        .iter()
        .filter(|file| !file.components().any(|part| part.as_os_str() == "target"))
        .map(|it| Page::read(it))
        .collect()
}

/// The targets of links, outside of code.
fn links(page: &Page) -> Vec<String> {
    let code = Regex::new(r"(?s)```.*?```|`[^`\n]*`").expect("a pattern");
    let link = Regex::new(r"\]\(([^)\s]+)\)").expect("a pattern");
    let text = code.replace_all(&page.text, "");
    link.captures_iter(&text).map(|found| found[1].to_owned()).filter(|it| !it.contains("://")).collect()
}

#[test]
fn every_link_and_its_anchor_exist() {
    let mut seen = 0;
    let mut broken = Vec::new();
    for page in all() {
        for link in links(&page) {
            let (file, anchor) =
                link.split_once('#').map_or((link.as_str(), None), |(file, anchor)| (file, Some(anchor)));
            let folder = page.file.parent().expect("a folder");
            let target = if file.is_empty() { page.file.clone() } else { folder.join(file) };
            let is_there =
                target.exists() && anchor.is_none_or(|anchor| anchors(&Page::read(&target).text).contains(anchor));
            if !is_there {
                broken.push(format!("{}: {link}", page.file.display()));
            }
            seen += 1;
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
    assert!(seen > 100, "{seen}");
}

/// The anchors of a page's headings, as GitHub makes them.
fn anchors(text: &str) -> BTreeSet<String> {
    let outside: String = text.split("```").step_by(2).collect();
    let mut anchors = BTreeSet::new();
    for heading in outside.lines().filter(|line| line.starts_with('#')) {
        let heading = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = |character: &char| character.is_alphanumeric() || [' ', '-', '_'].contains(character);
        let anchor: String = heading.chars().filter(kept).collect::<String>().replace(' ', "-");
        let repeated = (1..).map(|n| format!("{anchor}-{n}"));
        let free = std::iter::once(anchor.clone()).chain(repeated).find(|it| !anchors.contains(it));
        anchors.extend(free);
    }
    anchors
}

/// Whoever reads the README finds the page, at once or by a page that it links to.
#[test]
fn every_page_can_be_reached_from_the_readme() {
    let pages = all();
    let mut reached = BTreeSet::from([PathBuf::from("README.md")]);
    let mut open = vec![PathBuf::from("README.md")];
    while let Some(file) = open.pop() {
        let Some(page) = pages.iter().find(|page| page.file == file) else { continue };
        for link in links(page) {
            let target = link.split('#').next().unwrap_or_default();
            let target = plain(&file.parent().expect("a folder").join(target));
            if reached.insert(target.clone()) {
                open.push(target);
            }
        }
    }
    let is_doc = |file: &&PathBuf| file.starts_with("docs");
    let lost: Vec<&PathBuf> =
        pages.iter().map(|it| &it.file).filter(is_doc).filter(|it| !reached.contains(*it)).collect();
    assert!(lost.is_empty(), "nothing leads to {lost:?}");
}

/// Without `..`.
fn plain(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut plain, part| {
        match part {
            std::path::Component::ParentDir => {
                plain.pop();
            }
            std::path::Component::CurDir => {}
            part => plain.push(part),
        }
        plain
    })
}
