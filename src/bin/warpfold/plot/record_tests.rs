use super::*;

const HEADER: &str = "date,commit,device,driver,compiler,threads,kind,operation,dtype,problem,series,size,median_ms,p10_ms,p90_ms,\
                      calls,rate,unit,ceiling,fraction,intensity,error,clock_mhz,power_w,temperature_c,note";
const LINE: &str = "2026-11-27 09:06,3244020,\"CPU, two cores\",,rustc,2,operation,attention forward,f32,attention forward f32 1x8x512x64,,,\
                    6.5,6.25,7.5,228,82.5,GFLOP/s,184.7,0.443,128,1.2e-7,,,,";

/// A record of this line alone, with a comment before it.
fn record(line: &str) -> String {
    format!("# a record\n{HEADER}\n{line}\n")
}

fn error(line: &str) -> String {
    parse(&record(line)).expect_err("the line is wrong")
}

#[test]
fn a_line_is_read_as_it_is() {
    let lines = parse(&record(LINE)).unwrap();
    let line = &lines[0];
    assert_eq!((line.device.as_str(), line.threads, line.kind), ("CPU, two cores", Some(2), Kind::Operation));
    assert_eq!((line.rate, line.unit, line.size), (Some(82.5), Some(Unit::GigaFlop), None));
    assert_eq!((line.ceiling, line.fraction, line.intensity), (Some(184.7), Some(0.443), Some(128.0)));
    assert_eq!(line.short_problem(), "1x8x512x64");
    // A call in less time has a higher rate.
    assert_eq!(line.giga_at(line.p10_ms), 82.5 * 6.5 / 6.25);
}

#[test]
fn tera_and_giga_compare() {
    let lines = parse(&record(&LINE.replace("82.5,GFLOP/s", "0.5,TFLOP/s"))).unwrap();
    assert_eq!(lines[0].giga(), 500.0);
    assert_eq!(lines[0].ceiling_giga(), Some(184_700.0));
}

#[test]
fn what_is_wrong_has_its_line_and_column() {
    assert_eq!(error(&LINE.replace("82.5,", "fast,")), "line 3, column `rate`: \"fast\": invalid float literal");
    assert_eq!(error(&LINE.replace("82.5,", "-1,")), "line 3, column `rate`: -1 is no positive number");
    assert_eq!(error(&LINE.replace("6.25,", "NaN,")), "line 3, column `p10_ms`: NaN is no positive number");
    assert_eq!(error(&LINE.replace("82.5,", ",")), "line 3, column `rate`: empty, in a line without a note");
    assert_eq!(error(&LINE.replace("GFLOP/s", "")), "line 3, column `unit`: empty, in a line without a note");
    let said = error(&LINE.replace("GFLOP/s", "GFLOPS"));
    assert_eq!(said, "line 3, column `unit`: \"GFLOPS\" is none of GB/s, GFLOP/s, TFLOP/s");
    let said = error(&LINE.replace(",operation,", ",measurement,"));
    assert_eq!(said, "line 3, column `kind`: \"measurement\" is none of ceiling, operation, overhead");
    let said = error(&LINE.replace("1x8x512x64,,", "1x8x512x64,some series,"));
    assert_eq!(said, "line 3, column `size`: empty, in a line of a series");
    assert_eq!(error(&format!("{LINE},more")), "line 3: 27 fields, where the names of the columns are 26");
    // Comments count as lines wherever they stand.
    assert!(error(&format!("# more\n\n{}", LINE.replace("82.5,", "x,"))).starts_with("line 5, column `rate`"));
}

#[test]
fn another_file_is_no_record() {
    let said = parse("# hello\nlibrary,operation,problem\nwarpfold,copy,1\n").unwrap_err();
    assert_eq!(said, "line 2: no column `date`, so this is no record of `warpfold bench`");
    assert_eq!(parse("").unwrap_err(), "there is no line with the names of the columns");
    assert_eq!(parse("# only a comment\n").unwrap_err(), "there is no line with the names of the columns");
}

#[test]
fn lines_with_a_note_and_no_rate_have_nothing_to_draw() {
    let note = LINE.replace("6.5,6.25,7.5,228,82.5,GFLOP/s,184.7,0.443,128,1.2e-7,,,,", ",,,,,,,,,,,,,no memory");
    assert_eq!(parse(&record(&format!("{note}\n{LINE}"))).unwrap().len(), 1);
    let remark = LINE.replace("1.2e-7,,,,", "1.2e-7,,,,by hand");
    assert!(remark != LINE && parse(&record(&remark)).unwrap().len() == 1);
}

#[test]
fn of_two_measurements_of_the_same_the_last_counts() {
    let text = record(&format!("{LINE}\n{}", LINE.replace("82.5,", "90,")));
    let file = Record { path: "a.csv".into(), lines: parse(&text).unwrap() };
    let sources = sources(&[file]);
    assert_eq!(sources.len(), 1);
    assert_eq!(sources[0].lines.iter().map(|line| line.rate).collect::<Vec<_>>(), [Some(90.0)]);
    assert_eq!(sources[0].label, "CPU, two cores, 2 threads, 2026-11-27, warpfold 3244020");
}

#[test]
fn files_of_one_device_and_day_are_told_apart_by_their_names() {
    let file = |name: &str| Record { path: name.into(), lines: parse(&record(LINE)).unwrap() };
    let sources = sources(&[file("x/before.csv"), file("x/after.csv")]);
    let shorts: Vec<&str> = sources.iter().map(|source| source.short.as_str()).collect();
    assert_eq!(shorts, ["[1] CPU, two cores, 2026-11-27 (before)", "[2] CPU, two cores, 2026-11-27 (after)"]);
}
