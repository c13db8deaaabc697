/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <liburing.h>
#include <stdio.h>

/* Reads the start of a file that the device exports. */
int main(int argc, char **argv)
{
	static char buffer[65536];
	struct io_uring ring;
	struct io_uring_cqe *cqe;
	struct io_uring_sqe *sqe;
	int fd = open(argc > 1 ? argv[1] : "/dev/uringpv/disk0", O_RDONLY);

	if (fd < 0 || io_uring_queue_init(8, &ring, 0) < 0)
		return 1;
	sqe = io_uring_get_sqe(&ring);
	io_uring_prep_read(sqe, fd, buffer, sizeof(buffer), 0);
	if (io_uring_submit(&ring) != 1 || io_uring_wait_cqe(&ring, &cqe))
		return 1;
	printf("read %d bytes\n", cqe->res);
	io_uring_cqe_seen(&ring, cqe);
	io_uring_queue_exit(&ring);
	return 0;
}
