package control

import (
	"net/http"
	"net/http/pprof"
)

// Profiles are the routes of `go tool pprof`: CPU (?seconds=N, less than two minutes),
// heap, goroutines and an execution trace of this process. They tell much about it, so
// nobody has them unasked; they need what the rest of the API needs.
func Profiles() []Route {
	named := func(w http.ResponseWriter, r *http.Request) { pprof.Handler(r.PathValue("profile")).ServeHTTP(w, r) }
	return []Route{
		{"GET", "/debug/pprof/{$}", pprof.Index},
		{"GET", "/debug/pprof/profile", pprof.Profile},
		{"GET", "/debug/pprof/trace", pprof.Trace},
		{"GET", "/debug/pprof/symbol", pprof.Symbol},
		{"GET", "/debug/pprof/{profile}", named},
	}
}
