using System.Collections.Concurrent;
using System.Text;
using Godwit.Interop.Linux;

namespace Godwit.VfioUser.Tests;

/// <summary>
/// No message carries more than the other side's max_data_xfer_size, whatever it is about (specification, "Read and Write Operations"), and what is larger crosses
/// in as many as it takes.
/// </summary>
public sealed class TransferLimitTests
{
    private const int Least = WireLimits.MinTransfer;
    private const int Odd = 20_000; // no multiple of anything
    private const int Large = 300_000; // above what is sent at once from here

    [Theory]
    [InlineData(Least, Least)]
    [InlineData(Odd, Odd)]
    [InlineData(Large, WireLimits.SendChunk)]
    public void A_client_keeps_to_what_the_server_takes(int limit, int sends)
    {
        using var served = new TestServer();
        var counts = new ConcurrentQueue<(Command Command, int Count)>();
        using var relay = new SpoiledDevice(served.Path, new Spoil(
            Before: m =>
            {
                int count = m.Command switch
                {
                    Command.RegionRead or Command.RegionWrite => (int)m.As<RegionAccessBody>().Count,
                    Command.MigrationDataRead or Command.MigrationDataWrite => (int)m.As<MigrationDataBody>().Size,
                    _ => 0,
                };
                if (count != 0)
                    counts.Enqueue((m.Command, count));
            },
            After: m =>
            {
                if (m.Command == Command.Version)
                    m.Reply = [.. m.Reply![..4], .. Encoding.UTF8.GetBytes($$$"""{"capabilities":{"max_data_xfer_size":{{{limit}}},"max_msg_fds":8}}"""), 0];
            }));
        using VfioUserClient client = VfioUserClient.Connect(
            relay.Path, new VfioUserClientOptions { ReplyTimeout = TestServer.Patience, TwinSocket = false }, new NoDma());
        Assert.Equal(limit, client.MaxTransfer);
        byte[] data = new byte[700_001];
        new Random(limit).NextBytes(data);
        byte[] back = new byte[data.Length];

        client.WriteRegion(2, 3, data, posted: false);
        Assert.Equal(data, served.Device.Region(2).AsSpan(3, data.Length).ToArray());
        AssertPieces(Command.RegionWrite, sends);
        client.ReadRegion(2, 3, back);
        Assert.Equal(data, back);
        AssertPieces(Command.RegionRead, limit);
        Array.Clear(served.Device.Region(2));
        client.WriteRegion(2, 5, data, posted: true);
        client.ReadRegion(2, 5, back);
        Assert.Equal(data, back);
        Assert.Equal([.. Pieces(Command.RegionWrite, sends), .. Pieces(Command.RegionRead, limit)], counts);
        counts.Clear();

        served.Device.Saved = new MemoryStream(data);
        client.SetMigrationState(DeviceMigrationState.StopCopy);
        Array.Clear(back);
        Assert.Equal(data.Length, client.ReadMigrationData(back));
        Assert.Equal(data, back);
        AssertPieces(Command.MigrationDataRead, limit);
        client.SetMigrationState(DeviceMigrationState.Resuming);
        client.WriteMigrationData(data);
        Assert.Equal(data, served.Device.Loaded.ToArray());
        AssertPieces(Command.MigrationDataWrite, sends);

        void AssertPieces(Command command, int most)
        {
            Assert.Equal(Pieces(command, most), counts);
            counts.Clear();
        }

        IEnumerable<(Command Command, int Count)> Pieces(Command command, int most) =>
            Enumerable.Range(0, (data.Length + most - 1) / most).Select(i => (command, Math.Min(most, data.Length - i * most)));
    }

    [Theory]
    [InlineData(Least, Least, true)]
    [InlineData(Odd, Odd, false)]
    [InlineData(Large, WireLimits.SendChunk, true)]
    public void A_server_keeps_to_what_the_client_takes(int limit, int chunk, bool twin)
    {
        using var server = new TestServer();
        using RawPeer peer = RawPeer.Connect(server.Path);
        string supported = twin ? "true" : "false";
        string json = $$$"""{"capabilities":{"twin_socket":{"supported":{{{supported}}} },"max_data_xfer_size":{{{limit}}},"max_msg_fds":8}}""";
        using RawMessage version = peer.Call(Command.Version, RawPeer.VersionBody(0, 0, json));
        Assert.Equal(Errno.None, version.Header.ReplyErrno);
        Assert.Equal(twin ? 1 : 0, version.Files.Length);
        IDeviceHost host = TestServer.Take(server.Device.Connections);
        const ulong Base = 0x10000;
        byte[] memory = new byte[0x100000];
        Assert.Equal(Errno.None, peer.Try(Command.DmaMap, RawPeer.Bytes(new DmaMapBody { ArgSize = 32, Flags = 3, Address = Base, Size = (ulong)memory.Length })));
        RawPeer device = twin ? new RawPeer(SocketHandle.DuplicateOf(version.Files[0])) : peer;
        byte[] data = new byte[700_001];
        new Random(limit).NextBytes(data);
        byte[] back = new byte[data.Length];
        var counts = new List<(Command, int)>();

        Background dma = Background.Run(() =>
        {
            Assert.True(host.Write(new DmaAddress(Base + 7), data));
            Assert.True(host.Read(new DmaAddress(Base + 7), back));
        });
        int pieces = (data.Length + chunk - 1) / chunk;
        for (int i = 0; i < 2 * pieces; i++)
        {
            using RawMessage command = device.Receive();
            DmaAccessBody access = command.As<DmaAccessBody>();
            counts.Add((command.Header.Command, (int)access.Count));
            Span<byte> place = memory.AsSpan((int)(access.Address - Base), (int)access.Count);
            if (command.Header.Command == Command.DmaWrite)
                command.Body.AsSpan(16).CopyTo(place);
            device.Reply(command.Header, RawPeer.Bytes(access, command.Header.Command == Command.DmaRead ? place : default));
        }
        dma.Join();
        Assert.Equal(data, back);
        Assert.Equal(
            new[] { Command.DmaWrite, Command.DmaRead }.SelectMany(c => Enumerable.Range(0, pieces).Select(i => (c, Math.Min(chunk, data.Length - i * chunk)))),
            counts);

        // An answer is no larger either: what would be is refused, and to the byte.
        Assert.Equal(Errno.None, Read(limit));
        Assert.Equal(Errno.EINVAL, Read(limit + 1));
        Assert.Equal(Errno.None, peer.Try(Command.DeviceFeature, RawPeer.Bytes(
            new FeatureBody { ArgSize = 16, Flags = (FeatureFlags)Feature.MigrationDeviceState | FeatureFlags.Set }, RawPeer.Bytes(new MigrationStateBody { State = (uint)DeviceMigrationState.StopCopy }))));
        server.Device.Saved = new MemoryStream(data);
        Assert.Equal(Errno.None, Save(limit));
        Assert.Equal(Errno.EINVAL, Save(limit + 1));
        if (twin)
            device.Dispose();

        Errno Read(int count) => peer.Try(Command.RegionRead, RawPeer.Bytes(new RegionAccessBody { Region = 2, Count = (uint)count }));
        Errno Save(int count) => peer.Try(Command.MigrationDataRead, RawPeer.Bytes(new MigrationDataBody { ArgSize = 8 + (uint)count, Size = (uint)count }));
    }
}
