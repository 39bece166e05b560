using Godwit.Interop.Linux;

namespace Godwit.VfioUser.Tests;

/// <summary>The client against servers that answer VERSION in every wrong way.</summary>
public sealed class NegotiationTests
{
    [Fact]
    public void Another_major_version_is_named_beside_ours()
    {
        using var server = new RawServer();
        server.Play(peer =>
        {
            using RawMessage version = peer.Receive();
            peer.Reply(version.Header, RawPeer.VersionBody(3, 7, "{}"));
        });
        var e = Assert.Throws<VfioUserProtocolException>(() => server.Connect());
        Assert.Contains("3.7", e.Message, StringComparison.Ordinal);
        Assert.Contains("0.0", e.Message, StringComparison.Ordinal);
        Assert.Contains(server.Path, e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_minor_version_that_was_not_proposed_is_refused()
    {
        using var server = new RawServer();
        server.Play(peer =>
        {
            using RawMessage version = peer.Receive();
            peer.Reply(version.Header, RawPeer.VersionBody(0, 1, "{}"));
        });
        Assert.Throws<VfioUserProtocolException>(() => server.Connect());
    }

    [Theory]
    [InlineData("{\"capabilities\":{\"max_data_xfer_size\":\"many\"}}")]
    [InlineData("hello")]
    public void Bad_json_is_a_protocol_error(string json)
    {
        using var server = new RawServer();
        server.Play(peer => peer.AcceptVersion(json));
        Assert.Throws<VfioUserProtocolException>(() => server.Connect());
    }

    [Fact]
    public void A_refusal_tells_the_error()
    {
        using var server = new RawServer();
        server.Play(peer =>
        {
            using RawMessage version = peer.Receive();
            peer.Reply(version.Header, [], Errno.EINVAL);
        });
        Assert.Equal(Errno.EINVAL, Assert.Throws<VfioUserRemoteException>(() => server.Connect()).Errno);
    }

    [Fact]
    public void A_server_that_closes_is_a_disconnect()
    {
        using var server = new RawServer();
        server.Play(peer => peer.Receive().Dispose());
        Assert.Throws<VfioUserDisconnectedException>(() => server.Connect());
    }

    [Fact]
    public void A_server_of_another_protocol_is_a_protocol_error()
    {
        using var server = new RawServer();
        server.Play(peer =>
        {
            peer.SendBytes("HTTP/1.1 400 Bad Request\r\n\r\n"u8);
            peer.TryReceive()?.Dispose();
        });
        Assert.Throws<VfioUserProtocolException>(() => server.Connect());
    }

    [Fact]
    public void A_silent_server_is_given_up_after_the_timeout()
    {
        using var server = new RawServer();
        var clock = new ManualClock();
        server.Play(peer =>
        {
            peer.Receive().Dispose();
            clock.Advance(TimeSpan.FromSeconds(4));
            clock.Advance(TimeSpan.FromSeconds(9)); // looked at every quarter
            Assert.Null(peer.TryReceive());
        });
        var e = Assert.Throws<VfioUserDisconnectedException>(
            () => server.Connect(new VfioUserClientOptions { Clock = clock, ReplyTimeout = TimeSpan.FromSeconds(10) }));
        Assert.Contains("no reply to VERSION within 00:00:10", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Limits_are_what_the_server_says()
    {
        using var server = new RawServer();
        server.Play(peer => peer.AcceptVersion("""{"capabilities":{"max_data_xfer_size":65536,"max_dma_maps":17,"max_msg_fds":4,"more":1}}"""));
        using VfioUserClient client = server.Connect();
        Assert.Equal((65536, 17), (client.MaxTransfer, client.MaxDmaMaps));
    }

    /// <summary>What is no multiple of the device's pages is refused in its place among the others, and the device is not asked.</summary>
    [Fact]
    public void Mappings_smaller_than_the_devices_pages_are_refused_here()
    {
        using var server = new RawServer();
        var maps = new List<ulong>();
        Background script = server.Play(peer =>
        {
            peer.AcceptVersion("""{"capabilities":{"pgsizes":65536}}""");
            while (peer.TryReceive() is { } message)
            {
                using (message)
                {
                    Assert.Equal(Command.DmaMap, message.Header.Command);
                    maps.Add(message.As<DmaMapBody>().Address);
                    peer.Reply(message.Header, [], maps.Count == 3 ? Errno.ENOSPC : Errno.None);
                }
            }
        });
        using (VfioUserClient client = server.Connect())
        {
            Assert.Equal(65536UL, client.DmaPageSize);
            DmaRange small = new(new DmaAddress(0x10000), 4096);
            DmaRange odd = new(new DmaAddress(0x11000), 65536);
            VfioUserRemoteException e = Assert.Throws<VfioUserRemoteException>(() => client.DmaMap(small, DmaAccess.Read, null, 0));
            Assert.Equal(Errno.EINVAL, e.Errno);
            Assert.Contains("65536", e.Message, StringComparison.Ordinal);
            Assert.Equal(Errno.ENOENT, Assert.Throws<VfioUserRemoteException>(() => client.DmaUnmap(odd)).Errno);
            client.DmaMap(new DmaRange(new DmaAddress(0x10000), 65536), DmaAccess.Read, null, 0);
            client.DmaMapQueued(new DmaRange(new DmaAddress(0x20000), 65536), DmaAccess.Read, null, 0);
            client.DmaMapQueued(small, DmaAccess.Read, null, 0);
            client.DmaUnmapQueued(odd);
            client.DmaMapQueued(new DmaRange(new DmaAddress(0x30000), 65536), DmaAccess.Read, null, 0);
            var failures = new List<DmaOperationFailure>();
            client.DmaFlush(failures);
            Assert.Equal(
                [(1, "DMA_MAP", small, Errno.EINVAL), (2, "DMA_UNMAP", odd, Errno.ENOENT), (3, "DMA_MAP", new DmaRange(new DmaAddress(0x30000), 65536), Errno.ENOSPC)],
                failures.OrderBy(f => f.Operation).Select(f => (f.Operation, f.Command, f.Range, f.Errno)));
        }
        script.Join();
        Assert.Equal([0x10000UL, 0x20000UL, 0x30000UL], maps);
    }

    [Fact]
    public void A_missing_socket_and_a_file_are_told_apart()
    {
        string directory = Directory.CreateTempSubdirectory("gwvn").FullName;
        string path = Path.Combine(directory, "s");
        var options = new VfioUserClientOptions();
        Assert.Equal(Errno.ENOENT, Assert.Throws<LinuxException>(() => VfioUserClient.Connect(path, options, new NoDma())).Errno);
        File.WriteAllText(path, "x");
        Assert.Equal(Errno.ENOTSOCK, Assert.Throws<LinuxException>(() => VfioUserClient.Connect(path, options, new NoDma())).Errno);
        string longPath = Path.Combine(directory, new string('s', 108));
        Assert.Equal(Errno.ENAMETOOLONG, Assert.Throws<LinuxException>(() => VfioUserClient.Connect(longPath, options, new NoDma())).Errno);
        Directory.Delete(directory, recursive: true);
    }
}
