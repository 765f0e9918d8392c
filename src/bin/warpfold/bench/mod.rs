//! `warpfold bench`: how fast the operations are, beside what the machine can do. Every result is held to the oracle before it
//! is timed.

mod attention;
mod ceilings;
mod clock;
#[cfg(feature = "cuda")]
mod cuda;
mod machine;
mod norm;
mod overhead;
mod problems;
mod record;
mod shapes;
mod softmax;
mod station;
mod table;
mod times;
mod trial;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::error::ErrorKind;
use clap::{Args, CommandFactory as _};
use warpfold::variants::{self, Variant};
use warpfold::{DType, Target};

use crate::terminal::Progress;
use crate::{Arguments, Outcome, terminal};
use ceilings::{Unit, Work};
use problems::{Operation, Problem};
use record::{CsvFile, Record, significant};
use shapes::{GRAMMAR, Shape};
use station::Station;

/// How the figures are counted, for the head of a record.
const CONVENTIONS: [&str; 4] = [
    "Times are of single calls into given memory, by a prepared plan: median, p10, p90. FLOP of attention: 4 * head_dim a visible \
     pair forward, 10 * head_dim backward. Bytes: each input read once, each output written once.",
    "ceiling: the lower of the matrix rate and intensity times the copy rate, as measured in this run, in the unit of the row; of \
     rows the copy rate of their size. A ceiling is the best tenth of its calls; copies and cuBLAS are what others reach, so that a \
     fraction over 1 is no error.",
    "error: the worst difference from the float64 oracle on a sample of rows, as a share of what is allowed.",
    "kind overhead: what the calling thread spends on the smallest problem; the problem column says on what, the note on which shape.",
];

#[derive(Args)]
#[command(after_long_help = GRAMMAR)]
pub struct Bench {
    /// Where to run: cpu, cpu:avx2, cuda:0; on emulator:sm_80 results are checked and nothing is timed
    #[arg(long, default_value = "best")]
    device: String,
    /// Only these operations: attention, softmax, layer_norm, rms_norm, each also with -forward or -backward
    #[arg(long, value_name = "NAME", num_args = 1.., value_delimiter = ',', value_parser = named_operations)]
    op: Vec<OperationList>,
    /// Shapes in place of the default list: 4096x4096 or b1,h8/2,s2048,d128,causal (--help shows all of it)
    #[arg(long, value_name = "SHAPE", num_args = 1..)]
    shapes: Vec<Shape>,
    /// Element types: f32, f16, bf16
    #[arg(long, num_args = 1.., value_delimiter = ',', value_parser = dtype)]
    dtype: Vec<DType>,
    /// Time of each problem, in milliseconds
    #[arg(long, value_name = "NUMBER", default_value_t = 200.0, value_parser = positive)]
    budget_ms: f64,
    /// Time of everything: what is not reached is named at the end
    #[arg(long, value_name = "TOTAL", value_parser = positive)]
    seconds: Option<f64>,
    /// Kernels of attention in place of those that plans choose, by name
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = kernel)]
    kernels: Vec<&'static Variant>,
    /// Also write everything to a file at the end
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also write a row a figure to a file, as they come
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
}

/// What one name stands for.
type OperationList = std::sync::Arc<[Operation]>;

fn named_operations(name: &str) -> Result<OperationList, String> {
    Operation::named(name).map(Into::into)
}

fn dtype(name: &str) -> Result<DType, String> {
    let of_name = |dtype: &DType| dtype.name() == name;
    [DType::F32, DType::F16, DType::BF16].into_iter().find(of_name).ok_or_else(|| "there are f32, f16 and bf16".into())
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value > 0.0 && value.is_finite() => Ok(value),
        _ => Err("it is no number above 0".to_string()),
    }
}

fn kernel(name: &str) -> Result<&'static Variant, String> {
    variants::named(name).ok_or_else(|| "there is no kernel of this name".to_string())
}

impl Bench {
    pub fn run(&self) -> Result<Outcome> {
        let start = Instant::now();
        let device = terminal::device(&self.device)?;
        let is_emulated = device.to_string().starts_with("emulator");
        let problems = self.problems(&device.target(), is_emulated);
        let station = Station::open(device, &self.kernels)?;
        let machine = &station.machine;
        let mut comments =
            vec![[machine.device.clone(), station.describe(), machine.date.clone()].join(", "), self.command_line()];
        comments.extend(CONVENTIONS.map(str::to_string));
        let csv = self.csv.as_ref().map(|path| CsvFile::create(path, &comments)).transpose()?;
        let mut run = Run { bench: self, station: &station, csv, records: Vec::new(), num_wrong: 0 };
        println!("{}", comments[0]);
        println!();

        let missed = if is_emulated { run.check(&problems)? } else { run.time(&problems, start)? };
        if let Some(path) = &self.json {
            record::write_json(path, &comments, &run.records)?;
        }
        if !missed.is_empty() {
            println!("\nnot reached within {} s:", self.seconds.unwrap_or_default());
            for problem in missed {
                println!("  {} {} {}", problem.operation, problem.dtype, problem.shape);
            }
        }
        if !is_emulated && self.csv.is_none() {
            println!("\nTo keep such figures: --csv {}", machine.record_name());
        }
        match run.num_wrong {
            0 => Ok(Outcome::Success),
            wrong => {
                eprintln!("{wrong} results are not the oracle's, or failed");
                Ok(Outcome::Wrong)
            }
        }
    }

    fn operations(&self) -> Vec<Operation> {
        match self.op.is_empty() {
            true => problems::OPERATIONS.to_vec(),
            false => self.op.iter().flat_map(|list| list.iter().copied()).collect(),
        }
    }

    /// Ends the program with exit code 2 where there are none.
    fn problems(&self, target: &Target, is_emulated: bool) -> Vec<Problem> {
        let operations = self.operations();
        let usual: &[DType] = if *target == Target::Cpu { &[DType::F32, DType::BF16] } else { &[DType::BF16] };
        let problems = match self.shapes.is_empty() {
            true => problems::narrowed(problems::defaults(target, is_emulated), &operations, &self.dtype),
            false if self.dtype.is_empty() => problems::of_shapes(&self.shapes, &operations, usual),
            false => problems::of_shapes(&self.shapes, &operations, &self.dtype),
        };
        if problems.is_empty() {
            let shapes: Vec<String> = self.shapes.iter().map(Shape::to_string).collect();
            let message = format!("none of the operations takes these shapes ({})\n{GRAMMAR}\n", shapes.join("; "));
            Arguments::command().error(ErrorKind::ValueValidation, message).exit();
        }
        problems
    }

    /// What was typed, without the files that only this machine has.
    fn command_line(&self) -> String {
        let mut words = vec!["warpfold".to_string()];
        let mut is_file = false;
        for word in std::env::args().skip(1) {
            let is_option = ["--csv", "--json"].iter().any(|option| word.starts_with(option));
            if !is_option && !is_file {
                words.push(if word.contains(' ') { format!("'{word}'") } else { word.clone() });
            }
            is_file = is_option && !word.contains('=');
        }
        words.join(" ")
    }
}

/// One run: what it writes to, and what it found.
struct Run<'a> {
    bench: &'a Bench,
    station: &'a Station<'a>,
    csv: Option<CsvFile>,
    records: Vec<Record>,
    num_wrong: usize,
}

impl Run<'_> {
    /// Ceilings, then the problems, then overheads. Returns the problems that time did not suffice for.
    fn time<'p>(&mut self, problems: &'p [Problem], start: Instant) -> Result<&'p [Problem]> {
        println!("{}", table::header());
        // Everything else is compared with them: they take twice the time.
        let ceilings = self.station.ceilings(2.0 * self.bench.budget_ms)?;
        for ceiling in &ceilings.all {
            let record = self.record_of_ceiling(ceiling);
            println!("{}", table::line(&record));
            self.keep(record)?;
        }
        let is_late = || self.bench.seconds.is_some_and(|seconds| start.elapsed().as_secs_f64() >= seconds);
        let mut progress = Progress::new("bench", problems.len() as u64);
        let mut reached = 0;
        for problem in problems {
            if is_late() {
                break;
            }
            let name = format!("{} {} {}", problem.operation, problem.dtype, problem.shape);
            progress.set(reached as u64, &name);
            let record = self.measure(problem, &ceilings);
            progress.line(&table::line(&record));
            self.keep(record)?;
            reached += 1;
        }
        drop(progress);
        if reached == problems.len() && !is_late() {
            self.time_overheads()?;
        } else {
            println!("\nno time for overheads");
        }
        Ok(&problems[reached..])
    }

    /// Only whether results are right.
    fn check<'p>(&mut self, problems: &'p [Problem]) -> Result<&'p [Problem]> {
        println!("an emulator has no times: results are checked only\n{}", table::header());
        let mut progress = Progress::new("bench", problems.len() as u64);
        for (number, problem) in problems.iter().enumerate() {
            progress.set(number as u64, &format!("{} {} {}", problem.operation, problem.dtype, problem.shape));
            let mut record = self.blank(problem);
            match self.station.workshop().trial(problem) {
                Err(error) => record.note = format!("skipped: {error:#}"),
                Ok(mut trial) => match trial.check() {
                    Ok(error) => (record.error, record.note) = (Some(significant(error)), "not timed".to_string()),
                    Err(error) => self.wrong(&mut record, &error),
                },
            }
            progress.line(&table::line(&record));
            self.keep(record)?;
        }
        Ok(&[])
    }

    fn time_overheads(&mut self) -> Result<()> {
        let operations = self.bench.operations();
        let budget_ms = (self.bench.budget_ms / 4.0).min(50.0);
        let found = overhead::measure(&self.station.workshop(), &self.station.clock, &operations, budget_ms)?;
        println!("\nwhat a call costs the thread that makes it\n{}", table::overhead_header());
        for of_operation in found.chunk_by(|a, b| a.operation == b.operation) {
            let records: Vec<Record> = of_operation
                .iter()
                .map(|overhead| Record {
                    kind: "overhead".to_string(),
                    operation: overhead.operation.to_string(),
                    dtype: overhead.dtype.to_string(),
                    problem: overhead.what.to_string(),
                    note: overhead.shape.to_string(),
                    ..self.with_times(&overhead.measured)
                })
                .collect();
            println!("{}", table::overhead_line(&records.iter().collect::<Vec<_>>()));
            for record in records {
                self.keep(record)?;
            }
        }
        Ok(())
    }

    /// Checks and times one problem. What goes wrong is said in the record.
    fn measure(&mut self, problem: &Problem, ceilings: &ceilings::Ceilings) -> Record {
        let mut record = self.blank(problem);
        let mut trial = match self.station.workshop().trial(problem) {
            Ok(trial) => trial,
            Err(error) => {
                record.note = format!("skipped: {error:#}");
                return record;
            }
        };
        match trial.check() {
            Ok(error) => record.error = Some(significant(error)),
            // Times of wrong results are none.
            Err(error) => {
                self.wrong(&mut record, &error);
                return record;
            }
        }
        let before = self.station.sample();
        let num_sets = trial.num_sets();
        let measured = match self.station.clock.measure(&mut || trial.call(), num_sets, self.bench.budget_ms) {
            Ok(measured) => measured,
            Err(error) => {
                self.wrong(&mut record, &error);
                return record;
            }
        };
        let after = self.station.sample();
        let unit = match &problem.shape {
            Shape::Attention(shape) if !shape.is_decoding() => self.station.flop_unit(),
            _ => Unit::Gigabytes,
        };
        let work = Work { dtype: problem.dtype, flops: trial.flops(), bytes: trial.bytes(), unit };
        let rate = work.amount() / measured.times.median_ms * 1e3;
        let ceiling = ceilings.of(&work);
        let mut notes = Vec::new();
        if measured.is_graph {
            notes.push("CUDA graph".to_string());
        }
        if self.station.rotation.is_some_and(|rotation| !rotation.is_cold(num_sets, work.bytes)) {
            notes.push("stays in L2".to_string());
        }
        notes.extend(after.change_since(&before));
        Record {
            rate: Some(significant(rate / unit.factor())),
            unit: unit.to_string(),
            ceiling: ceiling.map(|ceiling| significant(ceiling / unit.factor())),
            fraction: ceiling.map(|ceiling| significant(rate / ceiling)),
            intensity: work.intensity().map(significant),
            clock_mhz: after.clock_mhz,
            power_w: after.power_w,
            temperature_c: after.temperature_c,
            note: notes.join("; "),
            ..self.merged(record, &measured)
        }
    }

    fn wrong(&mut self, record: &mut Record, error: &anyhow::Error) {
        self.num_wrong += 1;
        record.note = format!("WRONG: {error:#}");
    }

    /// A row of the machine, without a figure.
    fn blank(&self, problem: &Problem) -> Record {
        let (series, size) = problem.series.clone().map_or((String::new(), None), |(name, size)| (name, Some(size)));
        Record {
            kind: "operation".to_string(),
            operation: problem.operation.to_string(),
            dtype: problem.dtype.to_string(),
            problem: problem.shape.to_string(),
            series,
            size,
            ..self.station.record()
        }
    }

    fn with_times(&self, measured: &times::Measured) -> Record {
        self.merged(self.station.record(), measured)
    }

    fn merged(&self, record: Record, measured: &times::Measured) -> Record {
        Record {
            median_ms: Some(significant(measured.times.median_ms)),
            p10_ms: Some(significant(measured.times.p10_ms)),
            p90_ms: Some(significant(measured.times.p90_ms)),
            calls: Some(measured.calls),
            ..record
        }
    }

    fn record_of_ceiling(&self, ceiling: &ceilings::Ceiling) -> Record {
        Record {
            kind: "ceiling".to_string(),
            operation: ceiling.kind.to_string(),
            dtype: match ceiling.kind {
                ceilings::Kind::Matrix(dtype) => dtype.to_string(),
                _ => String::new(),
            },
            problem: ceiling.problem.clone(),
            rate: Some(significant(ceiling.rate() / ceiling.unit.factor())),
            unit: ceiling.unit.to_string(),
            note: ceiling.note.clone(),
            ..self.with_times(&ceiling.measured)
        }
    }

    fn keep(&mut self, record: Record) -> Result<()> {
        if let Some(csv) = &mut self.csv {
            csv.write(&record).context("cannot write the record")?;
        }
        self.records.push(record);
        Ok(())
    }
}
