package lan

import (
	"context"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// watchNICs signals moved when links or addresses change, as the kernel tells, a moment after the last change of a
// burst; and now and then in case it did not tell.
func watchNICs(ctx context.Context, moved chan<- struct{}) {
	events := make(chan struct{}, 1)
	if f, err := netlinkSocket(); err == nil {
		done := make(chan struct{})
		go func() {
			defer close(done)
			buf := make([]byte, 16<<10)
			for {
				// Whatever it says, and also when messages were lost (ENOBUFS): the interfaces are read anew.
				if _, err := f.Read(buf); err != nil && ctx.Err() != nil {
					return
				} else if err != nil && !os.IsTimeout(err) {
					select {
					case <-ctx.Done():
						return
					case <-time.After(time.Second):
					}
				}
				poke(events)
			}
		}()
		defer func() {
			_ = f.Close()
			<-done
		}()
	}
	pollNICs(ctx, events, moved)
}

func netlinkSocket() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	groups := uint32(unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR)
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "netlink"), nil
}
