using Godwit.Interop.Linux;

namespace Godwit.VfioUser.Tests;

/// <summary>Messages of all sizes, cut anywhere, with and without descriptors: each comes out whole and with its own.</summary>
public sealed class MessageReceiverTests
{
    [Fact]
    public void Every_message_comes_whole_with_its_own_descriptors()
    {
        int seed = Environment.TickCount;
        (SocketHandle near, SocketHandle far) = SocketHandle.CreatePair();
        using (near)
        using (far)
        using (var receiver = new MessageReceiver(far))
        {
            // Files are told apart by their size.
            MemFd[] files = [.. Enumerable.Range(1, 8).Select(i => MemFd.Create("f", (ulong)i * 4096))];
            int before = OpenFiles.Count();
            const int Count = 5000;
            Background sender = Background.Run(() => Send(near, new Random(seed), files, Count));
            var random = new Random(seed);
            var got = new List<FileDescriptor>();
            for (int i = 0; i < Count; i++)
            {
                (byte[] message, int[] with, _) = Next(random, i);
                Assert.True(receiver.ReadHeader(out MessageHeader header, got, out bool truncated), $"seed {seed}, message {i}");
                byte[] body = new byte[header.Length - MessageHeader.Size];
                Assert.True(receiver.Read(body));
                receiver.TakeLate(got, ref truncated);
                Assert.False(truncated);
                Assert.True(message.AsSpan().SequenceEqual(RawPeer.Bytes(header, body)), $"seed {seed}, message {i}");
                Assert.Equal(with.Select(f => ((ulong)f + 1) * 4096), got.Select(f => stat.Of(f).Size));
                got.ForEach(file => file.Dispose());
                got.Clear();
            }
            sender.Join();
            near.Shutdown();
            Assert.False(receiver.ReadHeader(out _, got, out _));
            Assert.False(receiver.EndedInMessage);
            OpenFiles.AssertReturnsTo(before);
        }
    }

    [Fact]
    public void Descriptors_of_what_is_never_read_are_closed()
    {
        (SocketHandle near, SocketHandle far) = SocketHandle.CreatePair();
        using (near)
        using (far)
        {
            using MemFd file = MemFd.Create("never read", 4096);
            int before = OpenFiles.Count();
            using (var receiver = new MessageReceiver(far))
            {
                byte[] message = RawPeer.Message(default, []);
                near.Send(message);
                near.Send(message, [], [file, file]);
                Assert.True(receiver.ReadHeader(out _, [], out _));
                Assert.True(receiver.HasMessage);
                Assert.Equal(3, OpenFiles.Of("never read"));
            }
            OpenFiles.AssertReturnsTo(before);
        }
    }

    [Theory]
    [InlineData(64)] // through the buffer
    [InlineData(100_000)] // to its place
    public void Pieces_bring_no_more_descriptors_than_one_message_may(int size)
    {
        (SocketHandle near, SocketHandle far) = SocketHandle.CreatePair();
        using (near)
        using (far)
        {
            using MemFd file = MemFd.Create("f", 4096);
            int before = OpenFiles.Count();
            using (var receiver = new MessageReceiver(far))
            {
                byte[] message = RawPeer.Message(default, new byte[size]);
                FileDescriptor[] ten = [.. Enumerable.Repeat(file, 10)];
                Background sender = Background.Run(() =>
                {
                    near.Send(message.AsSpan(0, 20), [], ten);
                    near.Send(message.AsSpan(20, 40), [], ten);
                    near.Send(message.AsSpan(60));
                    near.Send(message, [], ten);
                });
                var got = new List<FileDescriptor>();
                for (int i = 0; i < 2; i++)
                {
                    Assert.True(receiver.ReadHeader(out _, got, out bool truncated));
                    Assert.True(receiver.Read(new byte[size]));
                    receiver.TakeLate(got, ref truncated);
                    Assert.Equal(i == 0, truncated); // the first alone
                    Assert.Equal(10, got.Count);
                    got.ForEach(each => each.Dispose());
                    got.Clear();
                }
                sender.Join();
            }
            OpenFiles.AssertReturnsTo(before);
        }
    }

    private static void Send(SocketHandle socket, Random random, MemFd[] files, int count)
    {
        for (int i = 0; i < count; i++)
        {
            (byte[] message, int[] with, int cut) = Next(random, i);
            FileDescriptor[] descriptors = [.. with.Select(f => files[f])];
            // Some with the first piece, the rest with the second, if there are two.
            int early = cut == message.Length ? descriptors.Length : i % (descriptors.Length + 1);
            socket.Send(message.AsSpan(0, cut), [], descriptors.AsSpan(0, early));
            if (cut < message.Length)
                socket.Send(message.AsSpan(cut), [], descriptors.AsSpan(early));
        }
    }

    private static (byte[] Message, int[] Files, int Cut) Next(Random random, int index)
    {
        int size = random.Next(10) switch
        {
            0 => random.Next(100_000),
            1 => random.Next(5000),
            2 => 0,
            _ => random.Next(64),
        };
        byte[] body = new byte[size];
        random.NextBytes(body);
        byte[] message = RawPeer.Message(new MessageHeader { Id = (ushort)index, Command = Command.DmaMap }, body);
        int[] files = random.Next(3) == 0 ? [.. Enumerable.Range(0, random.Next(1, 5)).Select(_ => random.Next(8))] : [];
        int cut = random.Next(4) == 0 ? random.Next(1, message.Length + 1) : message.Length;
        return (message, files, cut);
    }
}
