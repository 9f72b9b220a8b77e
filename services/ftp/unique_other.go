//go:build !unix

package ftp

import (
	"fmt"
	"io/fs"
)

// unique identifies the file behind info where the system tells (RFC 3659, 7.5.2).
func unique(info fs.FileInfo) string {
	if m, ok := info.Sys().(memInfo); ok {
		return fmt.Sprintf("m%x", m.id)
	}
	return ""
}
