//! The day that a chat template is told, and its writing by `strftime`.

use std::fmt;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// A day of the Gregorian calendar from 1970 on, written `2024-07-26`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChatDate {
    /// Days since 1 January 1970.
    days: u32,
}

impl ChatDate {
    /// Today, in UTC.
    pub fn today() -> Self {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Self { days: u32::try_from(seconds / 86_400).unwrap_or(0) }
    }

    /// Year, month (from 0) and day of the month (from 0).
    fn parts(self) -> (u32, usize, u32) {
        let (mut year, mut rest) = (1970, self.days);
        while rest >= days_of_year(year) {
            rest -= days_of_year(year);
            year += 1;
        }
        let mut month = 0;
        while rest >= days_of_month(year, month) {
            rest -= days_of_month(year, month);
            month += 1;
        }
        (year, month, rest)
    }

    /// As C's `strftime` writes the day's first moment; a directive that is not known here as `None`.
    pub(super) fn format(self, format: &str) -> Option<String> {
        let (year, month, day) = self.parts();
        let of_year = day + (0..month).map(|month| days_of_month(year, month)).sum::<u32>();
        // 1 January 1970 was a Thursday
        let weekday = (self.days as usize + 4) % 7;
        let (number, day) = (month + 1, day + 1);
        let mut text = String::new();
        let mut chars = format.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                text.push(c);
                continue;
            }
            text += &match chars.next()? {
                'Y' => year.to_string(),
                'y' => format!("{:02}", year % 100),
                'm' => format!("{number:02}"),
                'B' => MONTHS[month].to_owned(),
                'b' | 'h' => MONTHS[month][..3].to_owned(),
                'd' => format!("{day:02}"),
                'e' => format!("{day:2}"),
                'j' => format!("{:03}", of_year + 1),
                'A' => DAYS[weekday].to_owned(),
                'a' => DAYS[weekday][..3].to_owned(),
                'F' => self.to_string(),
                'H' | 'M' | 'S' => "00".to_owned(),
                'I' => "12".to_owned(),
                'p' => "AM".to_owned(),
                '%' => "%".to_owned(),
                '-' => match chars.next()? {
                    'd' => day.to_string(),
                    'm' => number.to_string(),
                    'H' | 'M' | 'S' => "0".to_owned(),
                    _ => return None,
                },
                _ => return None,
            };
        }
        Some(text)
    }
}

impl fmt::Display for ChatDate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = self.parts();
        write!(f, "{year:04}-{:02}-{:02}", month + 1, day + 1)
    }
}

impl FromStr for ChatDate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{}` is no day, expected one such as 2024-07-26", text.escape_debug());
        let parts: Vec<&str> = text.split('-').collect();
        let [year, month, day] = parts.as_slice() else { return Err(wrong()) };
        let number = |text: &str, length| {
            let digits = text.len() == length && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse::<u32>().ok().filter(|_| digits).ok_or_else(wrong)
        };
        let (year, month, day) = (number(year, 4)?, number(month, 2)?, number(day, 2)?);
        if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) {
            return Err(wrong());
        }
        let month = month as usize - 1;
        if day == 0 || day > days_of_month(year, month) {
            return Err(wrong());
        }
        let years: u32 = (1970..year).map(days_of_year).sum();
        let months: u32 = (0..month).map(|month| days_of_month(year, month)).sum();
        Ok(Self { days: years + months + day - 1 })
    }
}

fn is_leap(year: u32) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn days_of_year(year: u32) -> u32 {
    if is_leap(year) { 366 } else { 365 }
}

fn days_of_month(year: u32, month: usize) -> u32 {
    match month {
        1 if is_leap(year) => 29,
        1 => 28,
        3 | 5 | 8 | 10 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_read_and_written() {
        // The days of the week and of the year are those that `date` of GNU coreutils prints.
        for (day, text) in [
            ("1970-01-01", "Thu Thursday 001 01 Jan 1970"),
            ("2000-02-29", "Tue Tuesday 060 29 Feb 2000"),
            ("2024-07-26", "Fri Friday 208 26 Jul 2024"),
            ("2024-12-31", "Tue Tuesday 366 31 Dec 2024"),
            ("2100-03-01", "Mon Monday 060 01 Mar 2100"),
        ] {
            let date: ChatDate = day.parse().expect("a day");
            assert_eq!(date.to_string(), day);
            assert_eq!(date.format("%a %A %j %d %b %Y").as_deref(), Some(text));
        }
        let date: ChatDate = "2024-07-06".parse().expect("a day");
        assert_eq!(date.format("%-d/%-m/%y %e %B %F 100%%").as_deref(), Some("6/7/24  6 July 2024-07-06 100%"));
        assert_eq!((date.format("%Q"), date.format("%")), (None, None));
    }

    #[test]
    fn what_is_no_day_is_refused() {
        for text in [
            "",
            "2024",
            "2024-7-26",
            "2024-13-01",
            "2023-02-29",
            "2024-00-01",
            "1969-12-31",
            "26-07-2024",
            "2024-07-00",
        ] {
            assert!(text.parse::<ChatDate>().is_err(), "{text}");
        }
    }
}
