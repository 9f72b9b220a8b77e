package http

import (
	"bytes"
	_ "embed"
	"html/template"
	"net/http"
	"strconv"
	"strings"
)

// Pages hold everything they need: no script, no font, no image is fetched, and
// the policy below keeps it so.

//go:embed style.html
var styleHTML string

//go:embed welcome.html
var welcomeHTML string

//go:embed list.html
var listHTML string

var (
	welcomePage = pageTemplate("welcome", welcomeHTML)
	listPage    = pageTemplate("list", listHTML)
)

func pageTemplate(name, text string) *template.Template {
	return template.Must(template.Must(template.New(name).Parse(styleHTML)).Parse(text))
}

const pagePolicy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// page renders whole before it sends, so that a failing template is a 500 and not
// half a page.
func (w *response) page(t *template.Template, data any) {
	var b bytes.Buffer
	if err := t.Execute(&b, data); err != nil {
		panic(err) // the guard in ServeHTTP logs it and answers 500
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Length", strconv.Itoa(b.Len()))
	h.Set("Content-Security-Policy", pagePolicy)
	h.Set("Referrer-Policy", "no-referrer")
	h["X-Content-Type-Options"] = nosniff
	w.WriteHeader(http.StatusOK)
	w.Write(b.Bytes())
}

// prefersText reports whether the Accept field ranks text/plain above text/html
// (RFC 9110, 12.5.1). A client that takes anything gets HTML.
func prefersText(h http.Header) bool {
	var plain, html weight
	for _, line := range h["Accept"] {
		for item := range strings.SplitSeq(line, ",") {
			media, params, _ := strings.Cut(item, ";")
			q, ok := quality(params)
			if !ok {
				continue
			}
			switch strings.ToLower(strings.TrimSpace(media)) {
			case "text/plain":
				plain.set(q, 3)
			case "text/html":
				html.set(q, 3)
			case "text/*":
				plain.set(q, 2)
				html.set(q, 2)
			case "*/*":
				plain.set(q, 1)
				html.set(q, 1)
			}
		}
	}
	return plain.q > html.q
}

// weight is the quality that the most specific matching range gave.
type weight struct {
	q    float64
	rank int
}

func (w *weight) set(q float64, rank int) {
	if rank >= w.rank {
		w.q, w.rank = q, rank
	}
}

// quality finds the weight among a media range's parameters; it is 1 when absent.
func quality(params string) (float64, bool) {
	for p := range strings.SplitSeq(params, ";") {
		name, val, _ := strings.Cut(strings.TrimSpace(p), "=")
		if strings.EqualFold(name, "q") {
			q, err := strconv.ParseFloat(val, 64)
			return q, err == nil && q >= 0 && q <= 1
		}
	}
	return 1, true
}
