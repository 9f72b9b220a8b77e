package control

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestProfiles: profiles are there when they were asked for, and else not.
func TestProfiles(t *testing.T) {
	for name, x := range map[string]struct {
		more []Route
		want int
	}{"asked for": {Profiles(), http.StatusOK}, "not asked for": {nil, http.StatusNotFound}} {
		t.Run(name, func(t *testing.T) {
			h := (&API{More: x.more}).handler()
			for _, path := range []string{"/debug/pprof/", "/debug/pprof/goroutine?debug=1", "/debug/pprof/heap", "/debug/pprof/trace?seconds=0.01"} {
				w := httptest.NewRecorder()
				h.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
				require.Equal(t, x.want, w.Code, path)
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest("GET", "/debug/pprof/nothing", nil))
			require.Equal(t, http.StatusNotFound, w.Code)
		})
	}
}
