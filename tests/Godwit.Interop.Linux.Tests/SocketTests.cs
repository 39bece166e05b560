using System.Runtime.InteropServices;

namespace Godwit.Interop.Linux.Tests;

/// <summary>Messages with descriptors over a stream socket.</summary>
public sealed partial class SocketTests
{
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(60);

    /// <summary>
    /// Whoever sends is interrupted by a signal nearly each time that the socket is full: sendmsg(2) returns with a part of the message sent, and what
    /// follows must bring neither the descriptors once more nor a byte twice.
    /// </summary>
    [Fact]
    public void A_message_that_goes_in_parts_brings_its_descriptors_once()
    {
        const int Size = 4 << 20;
        const int Buffered = 1 << 20; // more than a socket holds: as long as so much has not come, the sender is inside of Send
        byte[] first = new byte[1000];
        byte[] second = new byte[Size - first.Length];
        new Random(1).NextBytes(first);
        new Random(2).NextBytes(second);
        (SocketHandle near, SocketHandle far) = SocketHandle.CreatePair();
        using EventFd one = EventFd.Create();
        using EventFd two = EventFd.Create();
        using PosixSignalRegistration handler = PosixSignalRegistration.Create(PosixSignal.SIGWINCH, static context => context.Cancel = true);
        nint sender = 0;
        using var started = new ManualResetEventSlim();
        Exception? failure = null;
        var thread = new Thread(() =>
        {
            sender = Pthread.Self();
            started.Set();
            try
            {
                near.Send(first, second, [one, two]);
            }
            catch (Exception e)
            {
                failure = e;
                near.Shutdown();
            }
        });
        thread.Start();
        Assert.True(started.Wait(Patience));

        byte[] received = new byte[Size];
        int[] numbers = new int[16];
        var files = new List<(int At, FileDescriptor File)>();
        int at = 0;
        while (at < Size)
        {
            if (at < Size - Buffered)
                Assert.Equal(0, Pthread.Kill(sender, (int)Signal.SIGWINCH));
            int got = far.Receive(received.AsSpan(at, Math.Min(4096, Size - at)), numbers, out int count, out bool truncated);
            Assert.False(truncated);
            Assert.True(got > 0, $"the stream ends after {at} bytes: {failure}");
            foreach (int number in numbers.AsSpan(0, count))
                files.Add((at, FileDescriptor.Adopt(number)));
            at += got;
        }
        Assert.True(thread.Join(Patience));
        Assert.Null(failure);
        Assert.Equal([0, 0], files.Select(f => f.At));
        Assert.True(received.AsSpan(0, first.Length).SequenceEqual(first) && received.AsSpan(first.Length).SequenceEqual(second));
        Assert.False(far.TryReceive(received, numbers, out _, out _, out _));
        files.ForEach(f => f.File.Dispose());
        near.Dispose();
        far.Dispose();
    }

    /// <summary>Numbers of signal(7) that .NET has no name for when sent.</summary>
    private enum Signal
    {
        SIGWINCH = 28,
    }

    private static partial class Pthread
    {
        [LibraryImport("libc", EntryPoint = "pthread_self")]
        public static partial nint Self();

        [LibraryImport("libc", EntryPoint = "pthread_kill")]
        public static partial int Kill(nint thread, int signal);
    }
}
