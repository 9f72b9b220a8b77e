package control

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"porthole"
	"porthole/services"
)

// Timelines is what the API shows of conversations.
type Timelines interface {
	Flows(port *services.Port, limit int) []porthole.Flow
	Flow(porthole.FlowID) (porthole.Flow, bool)
	FlowsSince(cursor uint64, limit int) (flows []porthole.Flow, next, missed uint64)
	Why(of string) (porthole.Why, error)
}

// FlowPage is a part of what changed among the flows.
type FlowPage struct {
	Flows  []porthole.Flow `json:"flows"`
	Next   uint64          `json:"next"`   // the cursor for the next request
	Missed uint64          `json:"missed"` // changes that came after the cursor and are lost
}

// limitFlows is the most flows of one answer.
const limitFlows = 10000

func (a *API) flows(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	limit := 0
	if s := q.Get("limit"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > limitFlows {
			fail(w, http.StatusBadRequest, "limit "+strconv.Quote(s)+": must be 1 to "+strconv.Itoa(limitFlows))
			return
		}
		limit = n
	}
	if s := q.Get("cursor"); s != "" {
		cursor, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			fail(w, http.StatusBadRequest, "cursor "+strconv.Quote(s)+": want a whole number")
			return
		}
		if limit == 0 {
			limit = limitEvents
		}
		p := FlowPage{Flows: []porthole.Flow{}}
		var flows []porthole.Flow
		if flows, p.Next, p.Missed = a.Host.FlowsSince(cursor, limit); flows != nil {
			p.Flows = flows
		}
		answer(w, http.StatusOK, p)
		return
	}
	var port *services.Port
	if s := q.Get("port"); s != "" {
		p, err := services.ParsePort(s)
		if err != nil {
			fail(w, http.StatusBadRequest, err.Error())
			return
		}
		port = &p
	}
	p := FlowPage{Flows: a.Host.Flows(port, limit)}
	if p.Flows == nil {
		p.Flows = []porthole.Flow{}
	}
	answer(w, http.StatusOK, p)
}

func (a *API) flow(w http.ResponseWriter, r *http.Request) {
	var id porthole.FlowID
	if err := id.UnmarshalText([]byte(r.PathValue("id"))); err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return
	}
	f, ok := a.Host.Flow(id)
	if !ok {
		fail(w, http.StatusNotFound, "flow "+id.String()+": no such flow; see `porthole flows`")
		return
	}
	answer(w, http.StatusOK, f)
}

func (a *API) why(w http.ResponseWriter, r *http.Request) {
	y, err := a.Host.Why(r.URL.Query().Get("of"))
	if err != nil {
		fail(w, http.StatusNotFound, err.Error())
		return
	}
	answer(w, http.StatusOK, y)
}

// Flows are the newest conversations, of one port or of all (nil).
func (c *Client) Flows(ctx context.Context, port *services.Port, limit int) (FlowPage, error) {
	q := url.Values{}
	if port != nil {
		q.Set("port", port.String())
	}
	if limit > 0 {
		q.Set("limit", strconv.Itoa(limit))
	}
	return ask[FlowPage](ctx, c, http.MethodGet, "/v1/flows?"+q.Encode(), nil)
}

// FlowsSince are the flows that changed after cursor.
func (c *Client) FlowsSince(ctx context.Context, cursor uint64) (FlowPage, error) {
	return ask[FlowPage](ctx, c, http.MethodGet, "/v1/flows?cursor="+strconv.FormatUint(cursor, 10), nil)
}

// Flow is one conversation.
func (c *Client) Flow(ctx context.Context, id porthole.FlowID) (porthole.Flow, error) {
	return ask[porthole.Flow](ctx, c, http.MethodGet, "/v1/flows/"+id.String(), nil)
}

// Why explains a flow, a port, or "last".
func (c *Client) Why(ctx context.Context, of string) (porthole.Why, error) {
	return ask[porthole.Why](ctx, c, http.MethodGet, "/v1/why?"+url.Values{"of": {of}}.Encode(), nil)
}
