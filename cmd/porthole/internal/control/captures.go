package control

import (
	"context"
	"io"
	"net/http"
	"time"

	"porthole"
)

// Captures is what the API starts, reads and stops.
type Captures interface {
	StartCapture(porthole.CaptureOptions) (porthole.CaptureStatus, error)
	Captures() []porthole.CaptureStatus
	CaptureStatus(id string) (porthole.CaptureStatus, error)
	StopCapture(id string) (porthole.CaptureStatus, error)
	StreamCapture(ctx context.Context, id string, w io.Writer) error
}

// pcapngType is the media type of a stream; none is registered.
const pcapngType = "application/x-pcapng"

func (a *API) startCapture(w http.ResponseWriter, r *http.Request) {
	var o porthole.CaptureOptions
	if !body(w, r, &o) {
		return
	}
	s, err := a.Host.StartCapture(o)
	if err != nil {
		refuse(w, err)
		return
	}
	answer(w, http.StatusCreated, s)
}

func (a *API) captures(w http.ResponseWriter, _ *http.Request) {
	list := a.Host.Captures()
	if list == nil {
		list = []porthole.CaptureStatus{}
	}
	answer(w, http.StatusOK, list)
}

func (a *API) capture(w http.ResponseWriter, r *http.Request) {
	a.answerCapture(w)(a.Host.CaptureStatus(r.PathValue("id")))
}

func (a *API) stopCapture(w http.ResponseWriter, r *http.Request) {
	a.answerCapture(w)(a.Host.StopCapture(r.PathValue("id")))
}

func (a *API) answerCapture(w http.ResponseWriter) func(porthole.CaptureStatus, error) {
	return func(s porthole.CaptureStatus, err error) {
		if err != nil {
			refuse(w, err)
			return
		}
		answer(w, http.StatusOK, s)
	}
}

// streamCapture sends the file while the capture goes on. A client may take its time:
// what it does not take in time the capture counts as missed.
func (a *API) streamCapture(w http.ResponseWriter, r *http.Request) {
	out := &lateWriter{w: w, ctl: http.NewResponseController(w)}
	if err := a.Host.StreamCapture(r.Context(), r.PathValue("id"), out); err != nil && !out.begun {
		refuse(w, err)
	}
}

// lateWriter answers 200 with the first byte.
type lateWriter struct {
	w     http.ResponseWriter
	ctl   *http.ResponseController
	begun bool
}

func (l *lateWriter) Write(b []byte) (int, error) {
	if !l.begun {
		l.begun = true
		_ = l.ctl.SetWriteDeadline(time.Time{})
		l.w.Header().Set("Content-Type", pcapngType)
		l.w.Header().Set("Cache-Control", "no-store")
		l.w.Header().Set("X-Content-Type-Options", "nosniff")
		l.w.WriteHeader(http.StatusOK)
	}
	return l.w.Write(b)
}

func (l *lateWriter) Flush() error { return l.ctl.Flush() }

// StartCapture begins a capture; StreamCapture reads it.
func (c *Client) StartCapture(ctx context.Context, o porthole.CaptureOptions) (porthole.CaptureStatus, error) {
	return ask[porthole.CaptureStatus](ctx, c, http.MethodPost, "/v1/captures", o)
}

// Captures are those that record, and the last that have ended.
func (c *Client) Captures(ctx context.Context) ([]porthole.CaptureStatus, error) {
	return ask[[]porthole.CaptureStatus](ctx, c, http.MethodGet, "/v1/captures", nil)
}

// Capture is one of them.
func (c *Client) Capture(ctx context.Context, id string) (porthole.CaptureStatus, error) {
	return ask[porthole.CaptureStatus](ctx, c, http.MethodGet, capturePath(id), nil)
}

// StopCapture ends a capture: its stream gets what is buffered, and the file's end.
func (c *Client) StopCapture(ctx context.Context, id string) (porthole.CaptureStatus, error) {
	return ask[porthole.CaptureStatus](ctx, c, http.MethodDelete, capturePath(id), nil)
}

// StreamCapture opens a capture's pcapng file, which grows until the capture ends. To
// close it before that ends the capture, and leaves the file without its end.
func (c *Client) StreamCapture(ctx context.Context, id string) (io.ReadCloser, error) {
	path := capturePath(id) + "/stream"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://porthole"+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.failed(path, err)
	}
	if resp.StatusCode != http.StatusOK {
		defer func() { _ = resp.Body.Close() }()
		return nil, errorOf(resp)
	}
	return resp.Body, nil
}

func capturePath(id string) string { return "/v1/captures/" + id }
