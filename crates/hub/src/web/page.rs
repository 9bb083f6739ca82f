//! The page's files, which are built into the program.

pub const HTML: &str = include_str!("../../page/index.html");
pub const STYLE: &str = include_str!("../../page/style.css");
/// The paths and texts of the scripts, in loading order.
pub const SCRIPTS: [(&str, &str); 6] = [
    ("/format.js", include_str!("../../page/format.js")),
    ("/rates.js", include_str!("../../page/rates.js")),
    ("/charts.js", include_str!("../../page/charts.js")),
    ("/tables.js", include_str!("../../page/tables.js")),
    ("/verdict.js", include_str!("../../page/verdict.js")),
    ("/app.js", include_str!("../../page/app.js")),
];
/// The page for a browser that has not shown the token.
pub const LOGIN: &str = include_str!("../../page/login.html");

const STYLE_LINK: &str = r#"<link rel="stylesheet" href="/style.css">"#;

/// The page and its data in one file, for a browser without a hub.
pub fn with_data(json: &str) -> String {
    // In a script element, `<` could end the element or hide its end.
    let json = json.replace('<', "\\u003c");
    let data = format!(r#"<script type="application/json" id="data">{json}</script>"#);
    let page = HTML
        .replace(STYLE_LINK, &format!("<style>\n{STYLE}</style>"))
        .replace("</body>", &format!("{data}\n</body>"));
    SCRIPTS.iter().fold(page, |page, (name, script)| {
        // After the page's elements, which the script uses. (As a file, `defer` delays it until they exist.)
        page.replace(&format!("<script src=\"{name}\" defer></script>\n"), "")
            .replace("</body>", &format!("<script>\n{script}</script>\n</body>"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_with_data_is_one_file() {
        let page = with_data(r#"{"text":"</script><b>"}"#);
        assert!(!page.contains("<link rel=\"stylesheet\"") && !page.contains("<script src"), "{page}");
        assert!(page.contains(r#"{"text":"\u003c/script>\u003cb>"}"#), "{page}");
    }
}
