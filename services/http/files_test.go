package http

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"porthole/services"
)

// tree serves a directory with a secret beside it.
func tree(t *testing.T, upload bool, edit func(*Config)) (w *web, dir string) {
	top := t.TempDir()
	dir = filepath.Join(top, "pub")
	for name, text := range map[string]string{
		"secret.txt":          "secret",
		"pub/a.txt":           "hello",
		"pub/sub/b.bin":       "\x00\x01\x02",
		"pub/.hidden":         "hidden",
		"pub/.git/config":     "hidden",
		"pub/site/index.html": "<h1>index</h1>",
	} {
		p := filepath.Join(top, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(p), 0o755))
		require.NoError(t, os.WriteFile(p, []byte(text), 0o644))
	}
	w = start(t, func(_ *services.Env, cfg *Config) {
		cfg.Files, cfg.Upload = dir, upload
		if edit != nil {
			edit(cfg)
		}
	})
	return w, dir
}

func TestFiles(t *testing.T) {
	w, dir := tree(t, false, nil)
	require.NoError(t, os.Symlink("../secret.txt", dir+"/escape"))
	require.NoError(t, os.Symlink("/etc/passwd", dir+"/absolute"))
	require.NoError(t, os.Symlink("..", dir+"/up"))
	require.NoError(t, os.Symlink("a.txt", dir+"/inside"))
	require.NoError(t, os.Symlink("loop", dir+"/loop"))
	require.NoError(t, syscall.Mkfifo(dir+"/fifo", 0o644))
	for _, c := range []struct {
		path string
		want int
		text string
	}{
		{"a.txt", 200, "hello"},
		{"sub/b.bin", 200, "\x00\x01\x02"},
		{"inside", 200, "hello"},
		{"site/", 200, "<h1>index</h1>"},
		{"sub", 301, ""},
		{"a.txt/", 404, ""},
		{"a.txt/b", 404, ""},
		{"none", 404, ""},
		{".hidden", 404, ""},
		{".git/config", 404, ""},
		{"escape", 404, ""},
		{"absolute", 404, ""},
		{"up/secret.txt", 404, ""},
		{"loop", 404, ""},
		{"fifo", 404, ""},
		{"..%2fsecret.txt", 404, ""},
		{"%2e%2e/secret.txt", 404, ""},
		{"sub/..%2f..%2fsecret.txt", 404, ""},
		{"sub/%2e%2e/a.txt", 404, ""},
		{"a.txt%00", 404, ""},
		{"sub//b.bin", 200, "\x00\x01\x02"},
		{strings.Repeat("x", 5000), 404, ""},
	} {
		t.Run(fmt.Sprintf("%.30s", c.path), func(t *testing.T) {
			resp, body := w.do(t, "GET", "/files/"+c.path, nil)
			require.Equal(t, c.want, resp.StatusCode, "%s", body)
			if c.text != "" {
				require.Equal(t, c.text, string(body))
			}
			require.NotContains(t, string(body), "secret")
		})
	}
	resp, _ := w.do(t, "GET", "/files/sub", nil)
	require.Equal(t, "/files/sub/", resp.Header.Get("Location"))
	resp, _ = w.do(t, "GET", "/files//evil.example/..%2f", nil)
	require.Equal(t, 404, resp.StatusCode)
}

func TestFileRangesAndConditions(t *testing.T) {
	w, dir := tree(t, false, nil)
	when := time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)
	require.NoError(t, os.Chtimes(dir+"/a.txt", when, when))
	resp, _ := w.do(t, "GET", "/files/a.txt", nil)
	tag := resp.Header.Get("Etag")
	require.Equal(t, "Thu, 02 Jan 2020 03:04:05 GMT", resp.Header.Get("Last-Modified"))
	require.Equal(t, "text/plain; charset=utf-8", resp.Header.Get("Content-Type"))
	require.Equal(t, "nosniff", resp.Header.Get("X-Content-Type-Options"))
	for _, c := range []struct {
		name   string
		header []string
		want   int
		text   string
	}{
		{"range", []string{"Range", "bytes=1-2"}, 206, "el"},
		{"suffix", []string{"Range", "bytes=-2"}, 206, "lo"},
		{"beyond", []string{"Range", "bytes=5-"}, 416, ""},
		{"not modified", []string{"If-Modified-Since", "Thu, 02 Jan 2020 03:04:05 GMT"}, 304, ""},
		{"modified", []string{"If-Modified-Since", "Thu, 02 Jan 2020 03:04:04 GMT"}, 200, "hello"},
		{"tag", []string{"If-None-Match", tag}, 304, ""},
		{"if-range date", []string{"Range", "bytes=1-2", "If-Range", "Thu, 02 Jan 2020 03:04:05 GMT"}, 206, "el"},
		{"if-range old", []string{"Range", "bytes=1-2", "If-Range", "Thu, 02 Jan 2020 03:04:04 GMT"}, 200, "hello"},
	} {
		t.Run(c.name, func(t *testing.T) {
			resp, body := w.do(t, "GET", "/files/a.txt", nil, c.header...)
			require.Equal(t, c.want, resp.StatusCode)
			if c.text != "" {
				require.Equal(t, c.text, string(body))
			}
		})
	}
}

// Names are other people's text: none may become markup, a scheme or another path.
func TestListing(t *testing.T) {
	w, dir := tree(t, false, nil)
	evil := []string{`<script>alert(1)<`, `"><img src=x>`, `javascript:alert(1)`, `a b?c#d%20`, `ünï`, "1\t2\n3"}
	for _, n := range evil {
		require.NoError(t, os.WriteFile(filepath.Join(dir, n), []byte(n), 0o644))
	}
	require.NoError(t, os.Symlink("../secret.txt", dir+"/escape"))
	require.NoError(t, os.Symlink("sub", dir+"/linkdir"))
	resp, body := w.do(t, "GET", "/files/", nil)
	require.Equal(t, 200, resp.StatusCode)
	page := string(body)
	for _, bad := range []string{"<script", "<img", `href="javascript:`, ".hidden", ".git", "escape", "secret"} {
		require.NotContains(t, page, bad)
	}
	require.Contains(t, page, `&lt;script&gt;alert(1)&lt;`)
	require.Contains(t, resp.Header.Get("Content-Security-Policy"), "default-src 'none'")
	require.Less(t, strings.Index(page, "linkdir/"), strings.Index(page, "a.txt"), "directories first")
	// Every link leads to its file.
	base, err := http.NewRequest("GET", w.url+"/files/", nil)
	require.NoError(t, err)
	found := 0
	for _, piece := range strings.Split(page, `<td><a href="`)[1:] {
		href, _, _ := strings.Cut(piece, `"`)
		u, err := base.URL.Parse(htmlUnescape(href))
		require.NoError(t, err)
		resp, body := w.do(t, "GET", u.RequestURI(), nil)
		require.Equal(t, 200, resp.StatusCode, href)
		for _, n := range evil {
			if string(body) == n {
				found++
			}
		}
	}
	require.Equal(t, len(evil), found)

	_, body = w.do(t, "GET", "/files/", nil, "Accept", "text/plain")
	require.Contains(t, string(body), "\n1?2?3\t5\t", "one line a name")
	resp, body = w.do(t, "GET", "/files/sub/", nil, "Accept", "text/plain")
	require.Equal(t, "text/plain; charset=utf-8", resp.Header.Get("Content-Type"))
	require.True(t, strings.HasPrefix(string(body), "b.bin\t3\t"), "%s", body)
}

func htmlUnescape(s string) string {
	return strings.NewReplacer("&amp;", "&", "&#34;", `"`, "&#43;", "+").Replace(s)
}

func TestListingIsBounded(t *testing.T) {
	dir := t.TempDir()
	cfg := Default()
	cfg.Files = dir
	st, err := newSite(quietSite(t).env, &cfg)
	require.NoError(t, err)
	defer st.close()
	st.files.most = 10
	for i := range 11 {
		rec := httptest.NewRecorder()
		st.ServeHTTP(rec, httptest.NewRequest("GET", "/files/", nil))
		require.Equal(t, i, strings.Count(rec.Body.String(), "<td><a href="))
		require.NotContains(t, rec.Body.String(), "there are more")
		require.NoError(t, os.WriteFile(fmt.Sprint(dir, "/", i), nil, 0o644))
	}
	rec := httptest.NewRecorder()
	st.ServeHTTP(rec, httptest.NewRequest("GET", "/files/", nil))
	require.Equal(t, 10, strings.Count(rec.Body.String(), "<td><a href="))
	require.Contains(t, rec.Body.String(), "Only 10 entries are listed; there are more.")
}

func TestNoFiles(t *testing.T) {
	w := start(t, nil)
	resp, _ := w.do(t, "GET", "/files/", nil)
	require.Equal(t, 404, resp.StatusCode)
	resp, _ = w.do(t, "PUT", "/files/x", strings.NewReader("x"))
	require.Equal(t, 405, resp.StatusCode)
}

func TestDataDirectory(t *testing.T) {
	data := t.TempDir()
	w := start(t, func(env *services.Env, cfg *Config) { env.DataDir, cfg.Upload = data, true })
	resp, _ := w.do(t, "PUT", "/files/x", strings.NewReader("kept"))
	require.Equal(t, 201, resp.StatusCode)
	got, err := os.ReadFile(data + "/files/x")
	require.NoError(t, err)
	require.Equal(t, "kept", string(got))
}

func TestUploadNeedsDirectory(t *testing.T) {
	cfg := Default()
	cfg.Upload = true
	_, err := newSite(quietSite(t).env, &cfg)
	require.ErrorContains(t, err, "needs a directory")
}

func TestUpload(t *testing.T) {
	w, dir := tree(t, true, func(c *Config) { c.UploadLimit = 1000 })
	require.NoError(t, os.Symlink("../secret.txt", dir+"/escape"))
	require.NoError(t, os.Symlink("..", dir+"/up"))
	body := func(n int) io.Reader { return bytes.NewReader(make([]byte, n)) }
	for _, c := range []struct {
		name, path string
		body       io.Reader
		header     []string
		want       int
	}{
		{"new", "n.bin", body(1000), nil, 201},
		{"again", "n.bin", body(10), nil, 204},
		{"empty", "e.bin", nil, nil, 201},
		{"in a directory", "sub/c.bin", body(1), nil, 201},
		{"over a link", "escape", body(1), nil, 404},
		{"through a link", "up/x", body(1), nil, 404},
		{"too long", "l.bin", body(1001), nil, 413},
		{"too long, chunked", "l.bin", struct{ io.Reader }{body(1001)}, nil, 413},
		{"no parent", "none/x", body(1), nil, 409},
		{"a directory", "sub", body(1), nil, 409},
		{"a directory's name", "new/", body(1), nil, 409},
		{"the root", "", body(1), nil, 409},
		{"below a file", "a.txt/x", body(1), nil, 404},
		{"hidden", ".x", body(1), nil, 404},
		{"traversal", "..%2fx", body(1), nil, 404},
		{"content-range", "n.bin", body(1), []string{"Content-Range", "bytes 0-0/10"}, 400},
		{"coded", "n.bin", body(1), []string{"Content-Encoding", "gzip"}, 415},
		{"only if new, is not", "n.bin", body(1), []string{"If-None-Match", "*"}, 412},
		{"only if new", "m.bin", body(1), []string{"If-None-Match", "*"}, 201},
		{"only this", "n.bin", body(1), []string{"If-Match", `"x"`}, 412},
		{"only if there", "none.bin", body(1), []string{"If-Match", "*"}, 412},
		{"changed since", "n.bin", body(1), []string{"If-Unmodified-Since", "Thu, 02 Jan 2020 03:04:05 GMT"}, 412},
	} {
		t.Run(c.name, func(t *testing.T) {
			resp, text := w.do(t, "PUT", "/files/"+c.path, c.body, c.header...)
			require.Equal(t, c.want, resp.StatusCode, "%s", text)
			if c.want == 201 {
				require.Equal(t, "/files/"+c.path, resp.Header.Get("Location"))
				got, _ := w.do(t, "HEAD", "/files/"+c.path, nil)
				require.Equal(t, got.Header.Get("Etag"), resp.Header.Get("Etag"))
			}
		})
	}
	// What one PUT said of the file makes the next one conditional.
	resp, _ := w.do(t, "HEAD", "/files/n.bin", nil)
	resp, _ = w.do(t, "PUT", "/files/n.bin", body(2), "If-Match", resp.Header.Get("Etag"))
	require.Equal(t, 204, resp.StatusCode)

	resp, _ = w.do(t, "DELETE", "/files/n.bin", nil)
	require.Equal(t, 405, resp.StatusCode)
	require.Equal(t, "GET, HEAD, PUT, OPTIONS", resp.Header.Get("Allow"))
	resp, _ = w.do(t, "GET", "/files/n.bin", nil)
	require.Equal(t, "sandbox", resp.Header.Get("Content-Security-Policy"))
	secret, err := os.ReadFile(filepath.Dir(dir) + "/secret.txt")
	require.NoError(t, err)
	require.Equal(t, "secret", string(secret))
	require.Empty(t, temps(t, dir))
}

// temps lists unfinished uploads.
func temps(t *testing.T, dir string) []string {
	got, err := filepath.Glob(dir + "/" + tempPrefix + "*")
	require.NoError(t, err)
	return got
}

// An upload that breaks off leaves nothing, and what it would have replaced stays.
func TestUploadBreaksOff(t *testing.T) {
	t.Parallel()
	w, dir := tree(t, true, func(c *Config) { c.BodyTimeout = 20 * time.Second })
	c := w.dial(t)
	fmt.Fprintf(c, "PUT /files/a.txt HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n%s", strings.Repeat("x", 50000))
	require.Eventually(t, func() bool { return len(temps(t, dir)) == 1 }, patience, time.Millisecond)
	// While it runs it is in no listing and cannot be fetched.
	_, page := w.do(t, "GET", "/files/", nil)
	require.NotContains(t, string(page), "porthole-upload")
	resp, _ := w.do(t, "GET", "/files/"+filepath.Base(temps(t, dir)[0]), nil)
	require.Equal(t, 404, resp.StatusCode)
	c.Close()
	require.Eventually(t, func() bool { return len(temps(t, dir)) == 0 }, patience, time.Millisecond)
	_, body := w.do(t, "GET", "/files/a.txt", nil)
	require.Equal(t, "hello", string(body))

	// Nor does the end of the service.
	c = w.dial(t)
	fmt.Fprintf(c, "PUT /files/a.txt HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n%s", strings.Repeat("x", 50000))
	require.Eventually(t, func() bool { return len(temps(t, dir)) == 1 }, patience, time.Millisecond)
	require.NoError(t, w.Stop())
	require.Empty(t, temps(t, dir))
}

// A directory that the host may not write to forbids uploads; it does not lack them.
func TestUploadForbidden(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.Chmod(dir, 0o555))
	if os.Getuid() == 0 { // may write to any directory but the kernel's
		if dir = "/sys/kernel/mm"; runtime.GOOS != "linux" {
			t.Skip("root may write everywhere")
		}
	}
	w := start(t, func(_ *services.Env, cfg *Config) { cfg.Files, cfg.Upload = dir, true })
	resp, _ := w.do(t, "PUT", "/files/x", strings.NewReader("x"))
	require.Equal(t, 403, resp.StatusCode)
}

// A file from the future was changed now (RFC 9110, 8.8.2.1).
func TestLastModifiedIsPast(t *testing.T) {
	w, dir := tree(t, false, nil)
	far := time.Now().Add(1000 * time.Hour)
	require.NoError(t, os.Chtimes(filepath.Join(dir, "a.txt"), far, far))
	resp, _ := w.do(t, "GET", "/files/a.txt", nil)
	at, err := http.ParseTime(resp.Header.Get("Last-Modified"))
	require.NoError(t, err)
	now, err := http.ParseTime(resp.Header.Get("Date"))
	require.NoError(t, err)
	require.False(t, at.After(now), "%v is after %v", at, now)
}

// Of two uploads at the same time that both want to be the first, or to replace what
// both have seen, one is told that it is not (RFC 9110, 13.1.2: lost updates).
func TestUploadConditionsHoldToTheEnd(t *testing.T) {
	w, dir := tree(t, true, nil)
	resp, _ := w.do(t, "HEAD", "/files/a.txt", nil)
	for _, c := range []struct {
		name   string
		header []string
		first  int
	}{
		{"n.txt", []string{"If-None-Match", "*"}, 201},
		{"a.txt", []string{"If-Match", resp.Header.Get("Etag")}, 204},
	} {
		slow := w.dial(t)
		fmt.Fprintf(slow, "PUT /files/%s HTTP/1.1\r\nHost: a\r\nConnection: close\r\n%s: %s\r\nContent-Length: 4\r\n\r\ns", c.name, c.header[0], c.header[1])
		require.Eventually(t, func() bool { return len(temps(t, dir)) == 1 }, patience, time.Millisecond)
		resp, _ := w.do(t, "PUT", "/files/"+c.name, strings.NewReader("fast"), c.header...)
		require.Equal(t, c.first, resp.StatusCode)
		io.WriteString(slow, "low")
		answer, err := io.ReadAll(slow)
		require.NoError(t, err)
		require.Equal(t, "HTTP/1.1 412 Precondition Failed", statusLine(string(answer)))
		_, body := w.do(t, "GET", "/files/"+c.name, nil)
		require.Equal(t, "fast", string(body))
		require.Empty(t, temps(t, dir))
	}
	// Two that want nothing: the one that ends last has replaced the other.
	slow := w.dial(t)
	fmt.Fprintf(slow, "PUT /files/o.txt HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 4\r\n\r\ns")
	require.Eventually(t, func() bool { return len(temps(t, dir)) == 1 }, patience, time.Millisecond)
	resp, _ = w.do(t, "PUT", "/files/o.txt", strings.NewReader("fast"))
	require.Equal(t, 201, resp.StatusCode)
	io.WriteString(slow, "low")
	answer, err := io.ReadAll(slow)
	require.NoError(t, err)
	require.Equal(t, "HTTP/1.1 204 No Content", statusLine(string(answer)))
}

func TestUploadQuota(t *testing.T) {
	// The tree's files, hidden ones too, are charged one block each.
	const held = 5
	w, dir := tree(t, true, func(c *Config) { c.UploadTotal = (held + 3) * fileBlock })
	put := func(name string, n int) int {
		resp, _ := w.do(t, "PUT", "/files/"+name, bytes.NewReader(make([]byte, n)))
		return resp.StatusCode
	}
	require.Equal(t, 201, put("1", 0))
	require.Equal(t, 507, put("2", 2*fileBlock)) // three blocks: one more than is left
	require.Equal(t, 201, put("2", 2*fileBlock-1))
	require.Equal(t, 507, put("3", 0))
	require.NoFileExists(t, dir+"/3")
	require.Equal(t, 507, put("2", 0), "the new file needs room beside the old one")
	require.Empty(t, temps(t, dir))
}

func TestQuotaIsGivenBack(t *testing.T) {
	w, _ := tree(t, true, func(c *Config) { c.UploadTotal = 20 * fileBlock })
	for range 50 {
		resp, _ := w.do(t, "PUT", "/files/x", bytes.NewReader(make([]byte, fileBlock)))
		require.Less(t, resp.StatusCode, 300)
	}
}

// Unfinished uploads of a process that was killed go at the next start; young ones
// may belong to another host on the same directory.
func TestStaleUploadsGo(t *testing.T) {
	dir := t.TempDir()
	old, young := dir+"/"+tempPrefix+"old", dir+"/"+tempPrefix+"young"
	require.NoError(t, os.WriteFile(old, nil, 0o644))
	require.NoError(t, os.WriteFile(young, nil, 0o644))
	long := time.Now().Add(-2 * tempAge)
	require.NoError(t, os.Chtimes(old, long, long))
	start(t, func(_ *services.Env, cfg *Config) { cfg.Files, cfg.Upload = dir, true })
	require.Eventually(t, func() bool { _, err := os.Stat(old); return os.IsNotExist(err) }, patience, time.Millisecond)
	require.FileExists(t, young)
}

// Readers beside writers see one whole version or another.
func TestUploadIsAtomic(t *testing.T) {
	w, _ := tree(t, true, nil)
	version := func(i int) []byte { return bytes.Repeat([]byte{byte('a' + i)}, 300000) }
	resp, _ := w.do(t, "PUT", "/files/v", bytes.NewReader(version(0)))
	require.Equal(t, 201, resp.StatusCode)
	var g errgroup.Group
	for i := range 8 {
		g.Go(func() error {
			for range 10 {
				req, err := http.NewRequest("PUT", w.url+"/files/v", bytes.NewReader(version(i)))
				if err != nil {
					return err
				}
				resp, err := w.http.Do(req)
				if err != nil {
					return err
				}
				resp.Body.Close()
				if resp.StatusCode != 204 {
					return fmt.Errorf("put: %s", resp.Status)
				}
			}
			return nil
		})
		g.Go(func() error {
			for range 10 {
				resp, err := w.http.Get(w.url + "/files/v")
				if err != nil {
					return err
				}
				got, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err != nil {
					return err
				}
				if len(got) != 300000 || bytes.Count(got, got[:1]) != len(got) {
					return fmt.Errorf("a mixture of versions")
				}
			}
			return nil
		})
	}
	require.NoError(t, g.Wait())
}
