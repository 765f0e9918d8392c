//! `minilm embed`: which sentences mean the same.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use minilm::{Embedding, Model};
use serde_json::json;

use super::terminal::{Progress, cosine_table};

/// The most sentences whose matrix fits a terminal.
const TABLE_MAX: usize = 20;

/// Options of `minilm embed`.
#[derive(clap::Args)]
pub struct Arguments {
    /// Sentences
    sentences: Vec<String>,
    /// A file with one sentence a line, after those given; - for the standard input
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Print sentences, embeddings and similarities as JSON
    #[arg(long)]
    json: bool,
}

/// Embeds the given sentences.
///
/// # Errors
/// The file's, the model's.
pub fn run(model: &Model, arguments: &Arguments) -> anyhow::Result<()> {
    let mut sentences = arguments.sentences.clone();
    if let Some(file) = &arguments.file {
        sentences.extend(lines(file)?);
    }
    let embeddings = embed(model, &sentences)?;
    for (index, sentence) in sentences.iter().enumerate() {
        let tokens = model.tokens(sentence)?;
        if tokens.is_truncated() {
            eprintln!("warning: sentence {index} was cut from {} to {} tokens", tokens.full_length, tokens.len());
        }
    }
    let cosines = cosines(&embeddings);
    if arguments.json {
        let vectors: Vec<&[f32]> = embeddings.iter().map(Embedding::as_slice).collect();
        let value = json!({ "sentences": sentences, "embeddings": vectors, "similarity": cosines });
        println!("{}", serde_json::to_string_pretty(&value)?);
    } else {
        show(&sentences, &cosines);
    }
    Ok(())
}

/// The lines of a file that are not blank.
fn lines(file: &Path) -> anyhow::Result<Vec<String>> {
    let text = match file.as_os_str() == "-" {
        true => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("cannot read the standard input")?;
            text
        }
        false => std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?,
    };
    Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(String::from).collect())
}

/// Embeds sentences with a progress bar.
///
/// # Errors
/// The model's.
pub fn embed<S: AsRef<str>>(model: &Model, sentences: &[S]) -> anyhow::Result<Vec<Embedding>> {
    let mut progress = Progress::new("embedding sentences", sentences.len());
    Ok(model.embed_with(sentences, |done| progress.set(done))?)
}

/// The cosine of every pair.
pub fn cosines(embeddings: &[Embedding]) -> Vec<Vec<f64>> {
    embeddings.iter().map(|a| embeddings.iter().map(|b| a.cosine(b)).collect()).collect()
}

/// Prints the sentences, their matrix, and the pair that is most alike.
pub fn show<S: AsRef<str>>(sentences: &[S], cosines: &[Vec<f64>]) {
    for (index, sentence) in sentences.iter().enumerate() {
        println!("{:>5}  {}", index + 1, sentence.as_ref());
    }
    match sentences.len() {
        1 => println!("(similarities need two sentences or more)"),
        2..=TABLE_MAX => println!("\ncosine similarity\n{}", cosine_table(cosines)),
        count => println!("\n(the {count} x {count} similarities are in the output of --json)"),
    }
    let pairs = (0..sentences.len()).flat_map(|a| (0..a).map(move |b| (b, a)));
    if let Some((a, b)) = pairs.max_by(|x, y| cosines[x.0][x.1].total_cmp(&cosines[y.0][y.1])) {
        println!("most alike: {} and {}, cosine {:.3}", a + 1, b + 1, cosines[a][b]);
    }
}
