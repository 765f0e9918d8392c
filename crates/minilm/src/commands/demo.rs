//! `minilm demo`: the whole show, with checks.

use std::path::PathBuf;
use std::time::Instant;

use minilm::Model;

use super::reference::Reference;
use super::terminal::title;
use super::{attention, bank, embed, sequential};

/// Options of `minilm demo`.
#[derive(clap::Args)]
pub struct Arguments {
    /// Folder for the pictures
    #[arg(long, value_name = "DIR", default_value = "target/demo")]
    out: PathBuf,
    /// Fail where the embeddings are further from the float64 reference than their type allows
    #[arg(long)]
    check_reference: bool,
    /// Leave out the timings, which take minutes in the emulator and mean nothing there
    #[arg(long)]
    quick: bool,
}

/// Runs everything in turn.
///
/// # Errors
/// The first check that fails, or the model's.
pub fn run(model: &Model, arguments: &Arguments) -> anyhow::Result<()> {
    let started = Instant::now();
    let reference = Reference::read()?;

    title("Sentences as vectors");
    let embeddings = embed::embed(model, &reference.sentences)?;
    embed::show(&reference.sentences, &embed::cosines(&embeddings));
    if arguments.check_reference {
        reference.check(&embeddings, model.dtype())?;
    }
    title("One word, two meanings");
    bank::run(model)?;
    title("Which word looks at which");
    attention::draw(model, attention::SENTENCE, attention::LINKING_HEAD, &arguments.out)?;
    title("All tokens at once, or one at a time");
    if arguments.quick {
        println!("skipped: --quick leaves out the timings");
    } else {
        sequential::run(model)?;
    }
    println!(
        "\nall checks passed in {:.1} s, in {} on {}",
        started.elapsed().as_secs_f64(),
        model.dtype(),
        model.device()
    );
    Ok(())
}
