package lab

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"strings"

	"porthole/cmd/porthole/internal/plot"
)

//go:embed report.html
var reportHTML string

var report = template.Must(template.New("report").Funcs(template.FuncMap{
	"svg":  svg,
	"cell": func(c Column, v any) string { return c.Text(v) },
	"num":  func(v any) bool { _, text := v.(string); return !text },
	"code": code,
}).Parse(reportHTML))

// WriteReport writes one page about one or more results. It asks nothing of any other
// address: figures are within it, styles too, and there is no script.
func WriteReport(w io.Writer, rs []Result) error {
	title := "porthole lab"
	if len(rs) == 1 {
		title = rs[0].Experiment + " - porthole lab"
	}
	if err := report.Execute(w, struct {
		Title   string
		Results []Result
	}{title, rs}); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}

// code shows `words` as such. The rest is escaped.
func code(s string) template.HTML {
	var b strings.Builder
	parts := strings.Split(s, "`")
	for i, p := range parts {
		p = template.HTMLEscapeString(p)
		switch {
		case i%2 == 1 && i+1 < len(parts):
			b.WriteString("<code>" + p + "</code>")
		case i%2 == 1:
			b.WriteString("`" + p) // it has no end
		default:
			b.WriteString(p)
		}
	}
	return template.HTML(b.String())
}

// svg draws a figure. Its texts are escaped by the drawer.
func svg(f Figure) (template.HTML, error) {
	var b bytes.Buffer
	if err := plot.SVG(&b, &f); err != nil {
		return "", err
	}
	return template.HTML(b.String()), nil
}
