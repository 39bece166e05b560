using System.Collections.Concurrent;
using Godwit.Interop.Linux;

namespace Godwit.VfioUser.Tests;

/// <summary>Several region writes at once, with a server that offers one message for them and with one that does not.</summary>
public sealed class WriteMultipleTests
{
    [Theory]
    [InlineData(true, false, 1)]
    [InlineData(true, true, 1)]
    [InlineData(false, false, 300)]
    [InlineData(false, true, 300)]
    public void Writes_arrive_in_order_and_in_few_messages(bool offered, bool posted, int messages)
    {
        using var server = new TestServer(configure: options => options with { OfferWriteMultiple = offered });
        var seen = new ConcurrentQueue<Command>();
        using var relay = new SpoiledDevice(server.Path, new Spoil(Before: exchange => seen.Enqueue(exchange.Command)));
        using var client = VfioUserClient.Connect(relay.Path, new VfioUserClientOptions { ReplyTimeout = TestServer.Patience, TwinSocket = false }, new NoDma());
        Assert.Equal(offered, client.CanWriteMultiple);
        var arrived = new ConcurrentQueue<(ulong, byte[])>();
        server.Device.OnWrite = (_, offset, data) => { arrived.Enqueue((offset, data)); return Errno.None; };
        RegionWrite[] writes = [.. Enumerable.Range(0, 300).Select(i => new RegionWrite(0, (ulong)i * 8, 1 + i % 8, 0x0807060504030201ul + (ulong)i))];
        client.WriteRegions(writes, posted);
        client.GetInfo();
        Assert.Equal(writes.Select(w => w.Offset), arrived.Select(a => a.Item1));
        Assert.All(writes.Zip(arrived), pair => Assert.Equal(BitConverter.GetBytes(pair.First.Value)[..pair.First.Size], pair.Second.Item2));
        Assert.Equal(messages, seen.Count(command => command == (offered ? Command.RegionWriteMulti : Command.RegionWrite)));
    }

    [Fact]
    public void A_refused_write_ends_those_that_follow()
    {
        using var server = new TestServer(configure: options => options with { OfferWriteMultiple = true });
        using VfioUserClient client = server.Connect();
        RegionWrite[] writes = [new(0, 0, 4, 1), new(0, 0x4000, 4, 2), new(0, 8, 4, 3)];
        Assert.Equal(Errno.EINVAL, Assert.Throws<VfioUserRemoteException>(() => client.WriteRegions(writes, posted: false)).Errno);
        Assert.Equal((1u, 0u), (BitConverter.ToUInt32(server.Device.Region(0)), BitConverter.ToUInt32(server.Device.Region(0), 8)));
        client.WriteRegions([], posted: false);
    }

    [Theory]
    [InlineData(0, 0)]
    [InlineData(0, 9)]
    [InlineData(-1, 4)]
    public void Sizes_and_regions_that_cannot_be_are_not_sent(int region, int size)
    {
        using var server = new TestServer();
        using VfioUserClient client = server.Connect();
        Assert.Throws<ArgumentOutOfRangeException>(() => client.WriteRegions([new RegionWrite(region, 0, size, 0)], posted: true));
        client.GetInfo();
    }

    [Fact]
    public void A_server_that_says_it_did_fewer_is_lost()
    {
        using var server = new RawServer();
        server.Play(peer =>
        {
            peer.AcceptVersion("""{"capabilities":{"max_msg_fds":16,"write_multiple":true}}""");
            using RawMessage writes = peer.Receive();
            peer.Reply(writes.Header, BitConverter.GetBytes(1ul));
            peer.TryReceive()?.Dispose();
        });
        using VfioUserClient client = server.Connect();
        Assert.Throws<VfioUserProtocolException>(() => client.WriteRegions([new(0, 0, 4, 1), new(0, 4, 4, 1)], posted: false));
    }
}
