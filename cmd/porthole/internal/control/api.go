package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"

	"porthole"
	"porthole/cmd/porthole/internal/config"
	"porthole/services"
)

// Host is what the API shows and changes: a running *porthole.Host.
type Host interface {
	Ports() []porthole.PortStatus
	PortStatus(services.Port) (porthole.PortStatus, bool)
	Health() porthole.Health
	Ledger() porthole.Ledger
	PortLedger(name string) (porthole.Ledger, bool)
	Events(cursor uint64) (events []porthole.Event, next, missed uint64)
	Config() porthole.Config
	Set(services.Port, porthole.Settings) error
	Reset(services.Port) error
	Link() porthole.LinkStatus
	SetLink(porthole.LinkSettings) error
	ResetLink() error
	Open(ctx context.Context, p services.Port, service string) error
	Close(services.Port) error
	Timelines
	Captures
}

// API is what a Server answers with.
type API struct {
	Host Host
	// Reload applies the configuration text, called name in errors, or reads again
	// what the host was started with when text is nil. It returns what changed.
	Reload func(ctx context.Context, name string, text []byte) ([]string, error)
	// Metrics answers GET /metrics.
	Metrics http.Handler
	// More are the routes of features that live elsewhere.
	More []Route
}

// Route is one method of one path, as http.ServeMux writes it ("/v1/ports/{number}/{proto}").
type Route struct {
	Method, Path string
	Serve        http.HandlerFunc
}

// Bounds of what a client may send.
const (
	limitBody   = config.LimitBytes
	limitEvents = 4096 // of one answer: as many as the log keeps
)

// Opening is the body of a request to open a port.
type Opening struct {
	Service string `json:"service"`
}

// Changes is the answer to a reload: a line for each thing that changed.
type Changes struct {
	Changes []string `json:"changes"`
}

// LinkChange is the body of a request to change the rules of the link.
type LinkChange struct {
	Set porthole.LinkSettings `json:"set"`
}

// EventPage is a part of the event log.
type EventPage struct {
	Events []porthole.Event `json:"events"`
	Next   uint64           `json:"next"`   // the cursor for the next request
	Missed uint64           `json:"missed"` // events that came after the cursor and are lost
}

// Failure is the body of every answer that says no.
type Failure struct {
	Error    string   `json:"error"`              // one line
	Problems []string `json:"problems,omitempty"` // of a configuration, a line each
}

// Routes lists every method of every path. The OpenAPI document names the same.
func (a *API) Routes() []Route {
	port := "/v1/ports/{number}/{proto}"
	return append([]Route{
		{"GET", "/v1/health", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, a.Host.Health()) }},
		{"GET", "/v1/ports", a.ports},
		{"GET", port, onPort(func(w http.ResponseWriter, _ *http.Request, p services.Port) { a.port(w, p) })},
		{"PATCH", port, onPort(a.set)},
		{"DELETE", port + "/settings", onPort(a.reset)},
		{"POST", port + "/open", onPort(a.open)},
		{"POST", port + "/close", onPort(a.close)},
		{"GET", "/v1/link", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, a.Host.Link()) }},
		{"PATCH", "/v1/link", a.setLink},
		{"DELETE", "/v1/link/settings", func(w http.ResponseWriter, _ *http.Request) { a.changedLink(w, a.Host.ResetLink()) }},
		{"GET", "/v1/fates", a.fates},
		{"GET", "/v1/events", a.events},
		{"GET", "/v1/flows", a.flows},
		{"GET", "/v1/flows/{id}", a.flow},
		{"GET", "/v1/why", a.why},
		{"POST", "/v1/captures", a.startCapture},
		{"GET", "/v1/captures", a.captures},
		{"GET", "/v1/captures/{id}", a.capture},
		{"DELETE", "/v1/captures/{id}", a.stopCapture},
		{"GET", "/v1/captures/{id}/stream", a.streamCapture},
		{"GET", "/v1/config", a.config},
		{"POST", "/v1/reload", a.reload},
		{"GET", "/metrics", a.metrics},
	}, a.More...)
}

// handler serves the routes. What is not among them is answered in JSON, too.
func (a *API) handler() http.Handler {
	mux := http.NewServeMux()
	var paths []string
	for _, r := range a.Routes() {
		mux.HandleFunc(r.Method+" "+r.Path, r.Serve)
		if !slices.Contains(paths, r.Path) {
			paths = append(paths, r.Path)
		}
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		var allowed []string
		for _, m := range []string{"GET", "HEAD", "POST", "PATCH", "PUT", "DELETE"} {
			other := r.Clone(r.Context())
			other.Method = m
			if _, pattern := mux.Handler(other); pattern != "/" {
				allowed = append(allowed, m)
			}
		}
		if len(allowed) > 0 {
			w.Header().Set("Allow", strings.Join(allowed, ", "))
			fail(w, http.StatusMethodNotAllowed, r.Method+" is not allowed on "+r.URL.Path)
			return
		}
		fail(w, http.StatusNotFound, "no such path; there are "+strings.Join(paths, ", "))
	})
	return mux
}

// onPort reads the port that a path names.
func onPort(f func(http.ResponseWriter, *http.Request, services.Port)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		p, err := services.ParsePort(r.PathValue("number") + "/" + r.PathValue("proto"))
		if err != nil {
			fail(w, http.StatusBadRequest, err.Error())
			return
		}
		f(w, r, p)
	}
}

func (a *API) ports(w http.ResponseWriter, _ *http.Request) {
	ports := a.Host.Ports()
	if ports == nil {
		ports = []porthole.PortStatus{}
	}
	answer(w, http.StatusOK, ports)
}

func (a *API) port(w http.ResponseWriter, p services.Port) {
	s, ok := a.Host.PortStatus(p)
	if !ok {
		fail(w, http.StatusNotFound, p.String()+": nobody has the port; `porthole ports` lists those that are bound")
		return
	}
	answer(w, http.StatusOK, s)
}

func (a *API) set(w http.ResponseWriter, r *http.Request, p services.Port) {
	var s porthole.Settings
	if !body(w, r, &s) {
		return
	}
	if err := a.Host.Set(p, s); err != nil {
		refuse(w, err)
		return
	}
	a.port(w, p)
}

func (a *API) reset(w http.ResponseWriter, _ *http.Request, p services.Port) {
	if err := a.Host.Reset(p); err != nil {
		refuse(w, err)
		return
	}
	a.port(w, p)
}

func (a *API) setLink(w http.ResponseWriter, r *http.Request) {
	var c LinkChange
	if body(w, r, &c) {
		a.changedLink(w, a.Host.SetLink(c.Set))
	}
}

// changedLink answers with the link as it is now, or why it has not changed.
func (a *API) changedLink(w http.ResponseWriter, err error) {
	if err != nil {
		refuse(w, err)
		return
	}
	answer(w, http.StatusOK, a.Host.Link())
}

func (a *API) open(w http.ResponseWriter, r *http.Request, p services.Port) {
	var o Opening
	if !body(w, r, &o) {
		return
	}
	if err := a.Host.Open(r.Context(), p, o.Service); err != nil {
		refuse(w, err)
		return
	}
	a.port(w, p)
}

func (a *API) close(w http.ResponseWriter, _ *http.Request, p services.Port) {
	if err := a.Host.Close(p); err != nil {
		refuse(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (a *API) fates(w http.ResponseWriter, r *http.Request) {
	of := r.URL.Query().Get("of")
	if of == "" || of == "host" {
		answer(w, http.StatusOK, a.Host.Ledger())
		return
	}
	l, ok := a.Host.PortLedger(of)
	if !ok {
		fail(w, http.StatusNotFound, of+": no port that somebody has or had, and no lane (closed, link, icmp, "+porthole.LaneHost+")")
		return
	}
	answer(w, http.StatusOK, l)
}

func (a *API) config(w http.ResponseWriter, _ *http.Request) {
	var b bytes.Buffer
	cfg := a.Host.Config()
	if err := config.Print(&b, &cfg); err != nil {
		refuse(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/yaml")
	_, _ = w.Write(b.Bytes())
}

func (a *API) reload(w http.ResponseWriter, r *http.Request) {
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limitBody))
	if err != nil {
		fail(w, http.StatusRequestEntityTooLarge, fmt.Sprintf("the configuration is longer than %d bytes", limitBody))
		return
	}
	if len(text) == 0 && r.ContentLength == 0 {
		text = nil
	}
	name := r.URL.Query().Get("name")
	if name == "" {
		name = "configuration"
	}
	changes, err := a.Reload(r.Context(), name, text)
	if err != nil {
		refuse(w, err)
		return
	}
	if changes == nil {
		changes = []string{}
	}
	answer(w, http.StatusOK, Changes{changes})
}

func (a *API) metrics(w http.ResponseWriter, r *http.Request) {
	if a.Metrics == nil {
		fail(w, http.StatusNotFound, "this host has no metrics")
		return
	}
	a.Metrics.ServeHTTP(w, r)
}

// body reads a JSON body of exactly one value into v, or answers why not. The type
// must be named: a form that a page of another site sends has another.
func body(w http.ResponseWriter, r *http.Request, v any) bool {
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/json" {
		fail(w, http.StatusUnsupportedMediaType, "want Content-Type: application/json")
		return false
	}
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, limitBody))
	d.DisallowUnknownFields()
	err := d.Decode(v)
	if err == nil && d.More() {
		err = errors.New("more than one value")
	}
	if err != nil {
		fail(w, http.StatusBadRequest, "body: "+strings.TrimPrefix(err.Error(), "json: "))
		return false
	}
	return true
}

// refuse answers with what a host said no with.
func refuse(w http.ResponseWriter, err error) {
	var e *porthole.Error
	var problems config.Problems
	status := http.StatusInternalServerError
	switch {
	case errors.As(err, &problems):
		status = http.StatusUnprocessableEntity
	case errors.As(err, &e):
		status = map[porthole.Kind]int{
			porthole.Invalid: http.StatusBadRequest, porthole.NotFound: http.StatusNotFound,
			porthole.InUse: http.StatusConflict, porthole.Stopped: http.StatusServiceUnavailable,
			porthole.Failed: http.StatusInternalServerError,
		}[e.Kind]
	}
	f := Failure{Error: strings.ReplaceAll(err.Error(), "\n", "; ")}
	for _, p := range problems {
		f.Problems = append(f.Problems, p.String())
	}
	answer(w, status, f)
}

func fail(w http.ResponseWriter, status int, text string) { answer(w, status, Failure{Error: text}) }

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client went away: nothing to tell it
}
