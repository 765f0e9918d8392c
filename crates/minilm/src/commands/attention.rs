//! `minilm attention`: which word looks at which.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use minilm::Model;

use super::{picture, terminal};

/// The sentence that the project's pictures show.
pub const SENTENCE: &str = "The teacher taught the students with the book.";

/// Layer and head, from 1, of the map that is drawn large: here "with" and its article look at "book", the verb at
/// "with", and the first article at "teacher".
pub const LINKING_HEAD: (usize, usize) = (3, 2);

/// How far a map may be from softmax of the same scores: both are exact up to the rounding of scores and lse, numbers
/// of some tens in f32.
const SOFTMAX_BOUND: f32 = 1e-4;

/// Options of `minilm attention`.
#[derive(clap::Args)]
pub struct Arguments {
    /// The sentence
    #[arg(default_value = SENTENCE)]
    sentence: String,
    /// Layer of the enlarged head, from 1
    #[arg(long, default_value_t = LINKING_HEAD.0)]
    layer: usize,
    /// The enlarged head, from 1
    #[arg(long, default_value_t = LINKING_HEAD.1)]
    head: usize,
    /// Folder for the pictures
    #[arg(long, value_name = "DIR", default_value = "target/minilm")]
    out: PathBuf,
}

/// Draws the maps of a sentence.
///
/// # Errors
/// The model's; a layer or head that does not exist; pictures that cannot be written; when the maps differ from
/// warpfold's softmax.
pub fn run(model: &Model, arguments: &Arguments) -> anyhow::Result<()> {
    draw(model, &arguments.sentence, (arguments.layer, arguments.head), &arguments.out)
}

/// Shows the maps of a sentence in the terminal, and writes two pictures to a folder.
///
/// # Errors
/// As [`run`].
pub fn draw(model: &Model, sentence: &str, (layer, head): (usize, usize), out: &Path) -> anyhow::Result<()> {
    let config = model.config();
    ensure!((1..=config.num_layers).contains(&layer), "layer {layer} of 1 to {} does not exist", config.num_layers);
    ensure!((1..=config.num_heads).contains(&head), "head {head} of 1 to {} does not exist", config.num_heads);
    let (layer, head) = (layer - 1, head - 1);
    let all = model.attention_maps(sentence)?;
    let maps = all.without_special_tokens();

    println!("\"{sentence}\"");
    println!(
        "A row is a token that looks, a column one that it looks at. [CLS] and [SEP] are removed and rows rescaled."
    );
    if let Some(text) = terminal::all_maps(&maps) {
        println!("\nall heads, {} a layer ({})\n{text}", maps.heads, terminal::LEGEND);
    }
    println!("\nlayer {}, head {} ({})\n{}", layer + 1, head + 1, terminal::LEGEND, terminal::map(&maps, layer, head));

    println!(
        "\nlargest difference of a map, exp(scale * q.k - lse), from warpfold's softmax of the same scores: {:.1e} (bound: {SOFTMAX_BOUND:.0e})",
        all.difference_from_softmax
    );
    ensure!(
        all.difference_from_softmax <= SOFTMAX_BOUND,
        "the attention maps differ from softmax by {:.2e}, more than {SOFTMAX_BOUND:.0e}",
        all.difference_from_softmax
    );

    fs::create_dir_all(out).with_context(|| format!("cannot make the folder {}", out.display()))?;
    let place = format!("{} on {}", model.dtype(), model.device());
    let title = picture::Title { sentence, place: &place };
    for (path, draw) in [
        (out.join("attention_heads.png"), picture::all_heads as picture::Draw),
        (out.join("attention_head.png"), picture::one_head as picture::Draw),
    ] {
        draw(&maps, (layer, head), &title, &path).with_context(|| format!("cannot draw {}", path.display()))?;
        println!("picture: {}", path.display());
    }
    Ok(())
}
