package control

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	lookEvery = 100 * time.Millisecond // at the log: nobody waits for those who read it
	aliveAt   = 15 * time.Second       // a comment that keeps a silent stream open
	writeIn   = 10 * time.Second       // a client that takes longer loses its stream
)

// events answers with a page of the log, or, for Accept: text/event-stream, with
// all that comes, until the client goes away. cursor is the Seq of the last event
// that the client has; a browser sends it as Last-Event-ID when it comes again.
func (a *API) events(w http.ResponseWriter, r *http.Request) {
	text := r.URL.Query().Get("cursor")
	stream := strings.Contains(r.Header.Get("Accept"), "text/event-stream")
	if last := r.Header.Get("Last-Event-ID"); stream && last != "" {
		text = last
	}
	var cursor uint64
	if text != "" {
		var err error
		if cursor, err = strconv.ParseUint(text, 10, 64); err != nil {
			fail(w, http.StatusBadRequest, fmt.Sprintf("cursor: %q is no whole number from 0", text))
			return
		}
	}
	if !stream {
		events, next, missed := a.Host.Events(cursor)
		answer(w, http.StatusOK, EventPage{events, next, missed})
		return
	}
	a.stream(w, r, cursor)
}

// stream sends server-sent events: `event: TYPE`, `id: SEQ`, `data: JSON`; and
// `event: missed` where the log has dropped some before they were sent.
func (a *API) stream(w http.ResponseWriter, r *http.Request, cursor uint64) {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	out := http.NewResponseController(w)
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	_, _ = io.WriteString(w, ": events of the host\n\n")
	var last time.Time
	for {
		events, next, missed := a.Host.Events(cursor)
		cursor = next
		now := time.Now()
		quiet := len(events) == 0 && missed == 0
		if !quiet || now.Sub(last) >= aliveAt {
			_ = out.SetWriteDeadline(now.Add(writeIn))
			last = now
			if missed > 0 {
				fmt.Fprintf(w, "event: missed\ndata: {\"missed\":%d}\n\n", missed)
			}
			for i := range events {
				b, err := json.Marshal(&events[i])
				if err != nil {
					return
				}
				fmt.Fprintf(w, "event: %s\nid: %d\ndata: %s\n\n", events[i].Type, events[i].Seq, b)
			}
			if quiet {
				_, _ = io.WriteString(w, ": still here\n\n")
			}
			if out.Flush() != nil {
				return
			}
		}
		select {
		case <-tick.C:
		case <-r.Context().Done():
			return
		}
	}
}
