using Godwit.Interop.Linux;

namespace Godwit.VfioUser.Tests;

/// <summary>Every command with wrong arguments over one raw connection: the right error, no body, the connection stays.</summary>
public sealed class CommandTests : IDisposable
{
    private readonly TestServer _server = new();
    private readonly RawPeer _peer;

    public CommandTests() => _peer = RawPeer.ConnectAndNegotiate(_server.Path);

    public void Dispose()
    {
        Assert.Equal(Errno.None, _peer.Try(Command.DeviceReset, [])); // still in step
        _peer.Dispose();
        _server.Dispose();
    }

    [Fact]
    public void Unknown_commands_and_those_of_the_other_side()
    {
        foreach (ushort command in (ushort[])[0, 11, 12, 14, 19, 255, ushort.MaxValue])
            Refused(Errno.EINVAL, (Command)command, new byte[32]);
    }

    [Fact]
    public void Bodies_that_are_too_short()
    {
        (Command Command, int Size)[] bodies =
        [
            (Command.DmaMap, 32), (Command.DmaUnmap, 24), (Command.DeviceGetInfo, 16), (Command.DeviceGetRegionInfo, 32), (Command.DeviceGetRegionIoFds, 16),
            (Command.DeviceGetIrqInfo, 16), (Command.DeviceSetIrqs, 20), (Command.RegionRead, 16), (Command.RegionWrite, 16), (Command.RegionWriteMulti, 8),
            (Command.DeviceFeature, 8), (Command.MigrationDataRead, 8), (Command.MigrationDataWrite, 8),
        ];
        foreach ((Command command, int size) in bodies)
        {
            for (int length = 0; length < size; length++)
                Refused(Errno.EINVAL, command, Enumerable.Repeat((byte)0xff, length).ToArray());
        }
    }

    [Fact]
    public void Infos()
    {
        Refused(Errno.EINVAL, Command.DeviceGetInfo, RawPeer.Bytes(new DeviceInfoBody { ArgSize = 15 }));
        Refused(Errno.EINVAL, Command.DeviceGetRegionInfo, RawPeer.Bytes(new RegionInfoBody { ArgSize = 31 }));
        Refused(Errno.EINVAL, Command.DeviceGetRegionInfo, RawPeer.Bytes(new RegionInfoBody { ArgSize = 32, Index = 9 }));
        Refused(Errno.EINVAL, Command.DeviceGetRegionInfo, RawPeer.Bytes(new RegionInfoBody { ArgSize = 32, Index = uint.MaxValue }));
        Refused(Errno.EINVAL, Command.DeviceGetIrqInfo, RawPeer.Bytes(new IrqInfoBody { ArgSize = 16, Index = 5 }));
        Refused(Errno.EINVAL, Command.DeviceGetRegionIoFds, RawPeer.Bytes(new RegionIoFdsBody { ArgSize = 16, Flags = 1 }));
        Refused(Errno.EINVAL, Command.DeviceGetRegionIoFds, RawPeer.Bytes(new RegionIoFdsBody { ArgSize = 16, Index = 9 }));
        using RawMessage none = _peer.Call(Command.DeviceGetRegionIoFds, RawPeer.Bytes(new RegionIoFdsBody { ArgSize = 1000, Index = 0 }));
        Assert.Equal((16, 0u, 16u), (none.Body.Length, none.As<RegionIoFdsBody>().Count, none.As<RegionIoFdsBody>().ArgSize));
        using RawMessage longer = _peer.Call(Command.DeviceGetRegionInfo, RawPeer.Bytes(new RegionInfoBody { ArgSize = 64, Index = 7 }, new byte[32]));
        Assert.Equal((32, 4096ul), (longer.Body.Length, longer.As<RegionInfoBody>().Size));
    }

    [Fact]
    public void Region_accesses_outside()
    {
        foreach ((ulong offset, uint region, uint count) in ((ulong, uint, uint)[])[
            (0x4000, 0, 1), (0x3fff, 0, 2), (ulong.MaxValue, 0, 1), (ulong.MaxValue - 3, 0, 4), (0, 1, 1), (0, 9, 1), (0, uint.MaxValue, 1), (0, 2, (1 << 20) + 1), (0, 2, uint.MaxValue)])
        {
            Refused(Errno.EINVAL, Command.RegionRead, RawPeer.Bytes(new RegionAccessBody { Offset = offset, Region = region, Count = count }));
            Refused(Errno.EINVAL, Command.RegionWrite, RawPeer.Bytes(new RegionAccessBody { Offset = offset, Region = region, Count = count }, new byte[Math.Min(count, 4)]));
        }
        Refused(Errno.EINVAL, Command.RegionWrite, RawPeer.Bytes(new RegionAccessBody { Count = 4 }, new byte[5]));
        using RawMessage empty = _peer.Call(Command.RegionRead, RawPeer.Bytes(new RegionAccessBody { Offset = 0x4000 }));
        Assert.Equal(16, empty.Body.Length);
        using RawMessage write = _peer.Call(Command.RegionWrite, RawPeer.Bytes(new RegionAccessBody { Offset = 0x3ffc, Count = 4 }, [1, 2, 3, 4]));
        Assert.Equal((16, 4u), (write.Body.Length, write.As<RegionAccessBody>().Count));
    }

    [Fact]
    public void Many_writes_in_one_message()
    {
        byte[] Multi(params MultiWriteBody[] writes) => RawPeer.Bytes((ulong)writes.Length, writes.SelectMany(w => RawPeer.Bytes(w)).ToArray());
        using RawMessage done = _peer.Call(
            Command.RegionWriteMulti,
            Multi(new MultiWriteBody { Offset = 8, Count = 8, Data = 0x0807060504030201 }, new MultiWriteBody { Offset = 16, Count = 2, Data = 0xffffffffffff0a09 }));
        Assert.Equal((8, 2ul), (done.Body.Length, done.As<ulong>()));
        Assert.Equal([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0, 0], _server.Device.Region(0).AsSpan(8, 12).ToArray());
        Refused(Errno.EINVAL, Command.RegionWriteMulti, Multi(new MultiWriteBody { Count = 9 }));
        Refused(Errno.EINVAL, Command.RegionWriteMulti, Multi(new MultiWriteBody { Offset = 0x4000, Count = 1 }));
        Refused(Errno.EINVAL, Command.RegionWriteMulti, RawPeer.Bytes(1UL, new byte[23]));
        Refused(Errno.EINVAL, Command.RegionWriteMulti, RawPeer.Bytes(ulong.MaxValue, new byte[24]));
        Refused(Errno.EINVAL, Command.RegionWriteMulti, RawPeer.Bytes(1UL, new byte[48]));
    }

    [Fact]
    public void No_reply_is_wanted_so_none_comes_not_even_an_error()
    {
        foreach (Command command in Enum.GetValues<Command>())
            _peer.Send(command, new byte[3], HeaderFlags.NoReply);
        _peer.Send(Command.RegionRead, RawPeer.Bytes(new RegionAccessBody { Count = 4 }), HeaderFlags.NoReply);
        _peer.Send(Command.RegionWrite, RawPeer.Bytes(new RegionAccessBody { Count = 4 }, [4, 3, 2, 1]), HeaderFlags.NoReply);
        using RawMessage read = _peer.Call(Command.RegionRead, RawPeer.Bytes(new RegionAccessBody { Count = 4 })); // would find another reply first
        Assert.Equal([4, 3, 2, 1], read.Body[16..]);
    }

    [Fact]
    public void Messages_of_no_type_and_replies_to_nothing()
    {
        _peer.SendBytes(RawPeer.Message(new MessageHeader { Id = 1, Command = Command.DeviceReset, Flags = (HeaderFlags)3 }, []));
        using (RawMessage reply = _peer.Receive())
            Assert.Equal(Errno.EINVAL, reply.Header.ReplyErrno);
        _peer.SendBytes(RawPeer.Message(new MessageHeader { Id = 1, Command = Command.DmaRead, Flags = HeaderFlags.Reply }, new byte[5000]));
    }

    [Fact]
    public void Maps()
    {
        var good = new DmaMapBody { ArgSize = 32, Flags = 3, Address = 0x10000, Size = 0x2000 };
        Refused(Errno.EINVAL, Command.DmaMap, RawPeer.Bytes(good with { ArgSize = 31 }));
        Refused(Errno.EINVAL, Command.DmaMap, RawPeer.Bytes(good with { Flags = 0 }));
        Refused(Errno.EINVAL, Command.DmaMap, RawPeer.Bytes(good with { Flags = 7 }));
        Refused(Errno.EINVAL, Command.DmaMap, RawPeer.Bytes(good with { Size = 0 }));
        Refused(Errno.EINVAL, Command.DmaMap, RawPeer.Bytes(good with { Size = 0x1800 }));
        Refused(Errno.EINVAL, Command.DmaMap, RawPeer.Bytes(good with { Address = 0x10800 }));
        Refused(Errno.EINVAL, Command.DmaMap, RawPeer.Bytes(good with { Address = 0xffff_ffff_ffff_f000 }));
        using MemFd file = MemFd.Create("ram", 0x4000);
        Refused(Errno.EINVAL, Command.DmaMap, RawPeer.Bytes(good), file, file);
        Refused(Errno.EINVAL, Command.DmaMap, RawPeer.Bytes(good with { FileOffset = 0x3000 }), file);
        Refused(Errno.EINVAL, Command.DmaMap, RawPeer.Bytes(good with { FileOffset = ulong.MaxValue - 0xfff }), file);
        Refused(Errno.EINVAL, Command.DmaMap, RawPeer.Bytes(good with { Size = 1ul << 63 }), file);
        using EventFd noFile = EventFd.Create();
        Refused(Errno.EINVAL, Command.DmaMap, RawPeer.Bytes(good), noFile);

        Done(Command.DmaMap, RawPeer.Bytes(good), file);
        Done(Command.DmaMap, RawPeer.Bytes(good), file); // the same again
        Refused(Errno.EEXIST, Command.DmaMap, RawPeer.Bytes(good with { Flags = 1 }), file);
        Refused(Errno.EEXIST, Command.DmaMap, RawPeer.Bytes(good with { FileOffset = 0x1000 }), file);
        Refused(Errno.EEXIST, Command.DmaMap, RawPeer.Bytes(good));
        Refused(Errno.EEXIST, Command.DmaMap, RawPeer.Bytes(good with { Address = 0xf000 }), file);
        Refused(Errno.EEXIST, Command.DmaMap, RawPeer.Bytes(good with { Address = 0x11000 }), file);
        Done(Command.DmaMap, RawPeer.Bytes(good with { Address = 0x12000 }), file);
        Done(Command.DmaMap, RawPeer.Bytes(good with { Address = 0xffff_ffff_ffff_e000 }), file);
        Done(Command.DmaMap, RawPeer.Bytes(good with { Address = 0 }), file);
    }

    [Fact]
    public void Unmaps_are_those_of_type1()
    {
        DmaUnmapBody Range(ulong address, ulong size, DmaUnmapFlags flags = 0) => new() { ArgSize = 24, Flags = flags, Address = address, Size = size };
        for (ulong i = 1; i < 5; i++)
            Done(Command.DmaMap, RawPeer.Bytes(new DmaMapBody { ArgSize = 32, Flags = 3, Address = i * 0x10000, Size = 0x4000 }));
        IDeviceHost host = _server.Device.Host!;
        Refused(Errno.EINVAL, Command.DmaUnmap, RawPeer.Bytes(Range(0x10000, 0)));
        Refused(Errno.EINVAL, Command.DmaUnmap, RawPeer.Bytes(Range(0x10000, ulong.MaxValue)));
        Refused(Errno.EINVAL, Command.DmaUnmap, RawPeer.Bytes(Range(0x10000, 0x2000)));
        Refused(Errno.EINVAL, Command.DmaUnmap, RawPeer.Bytes(Range(0x12000, 0x2000)));
        Refused(Errno.EINVAL, Command.DmaUnmap, RawPeer.Bytes(Range(0x10000, 0x12000))); // the second would be cut
        Refused(Errno.EINVAL, Command.DmaUnmap, RawPeer.Bytes(Range(0, 0x1000, DmaUnmapFlags.All)));
        Refused(Errno.EINVAL, Command.DmaUnmap, RawPeer.Bytes(Range(0, 0, DmaUnmapFlags.All | DmaUnmapFlags.GetDirtyBitmap)));
        Refused(Errno.EINVAL, Command.DmaUnmap, RawPeer.Bytes(Range(0, 0, (DmaUnmapFlags)4)));
        Done(Command.DmaUnmap, RawPeer.Bytes(Range(0x8000000, 0x1000))); // nothing there
        Done(Command.DmaUnmap, RawPeer.Bytes(Range(0xf000, 0x15000))); // the first two, and more
        Assert.Equal(Errno.None, Map(0x10000));
        Assert.Equal(Errno.EEXIST, Map(0x30000, 0x8000));
        using (RawMessage reply = _peer.Call(Command.DmaUnmap, RawPeer.Bytes(Range(0, 0xffff_ffff_ffff_f000))))
            Assert.Equal(RawPeer.Bytes(Range(0, 0xffff_ffff_ffff_f000)), reply.Body);
        Assert.Equal(Errno.None, Map(0x30000));
        Done(Command.DmaUnmap, RawPeer.Bytes(Range(0, 0, DmaUnmapFlags.All)));
        Assert.Equal(Errno.None, Map(0x30000, 0x8000));
        Assert.NotNull(host);

        Errno Map(ulong address, ulong size = 0x4000) =>
            _peer.Try(Command.DmaMap, RawPeer.Bytes(new DmaMapBody { ArgSize = 32, Flags = 3, Address = address, Size = size }));
    }

    [Fact]
    public void Unmap_with_a_bitmap_takes_the_marks_along()
    {
        using MemFd file = MemFd.Create("ram", 0x10000);
        byte[] unmap = RawPeer.Bytes(
            new DmaUnmapBody { ArgSize = 48, Flags = DmaUnmapFlags.GetDirtyBitmap, Address = 0x10000, Size = 0x10000 },
            RawPeer.Bytes(new SpanBody { Start = 4096, Length = 8 }));
        Done(Command.DmaMap, RawPeer.Bytes(new DmaMapBody { ArgSize = 32, Flags = 3, Address = 0x10000, Size = 0x10000 }), file);
        Refused(Errno.EINVAL, Command.DmaUnmap, unmap); // nothing is logged
        Done(Command.DeviceFeature, Feature(VfioUser.Feature.DmaLoggingStart, FeatureFlags.Set, RawPeer.Bytes(new LogControlBody { PageSize = 4096 })));
        Assert.True(_server.Device.Host!.Write(new DmaAddress(0x12000), [1]));
        using RawMessage reply = _peer.Call(Command.DmaUnmap, unmap);
        Assert.Equal((48, 4ul), (reply.Body.Length, BitConverter.ToUInt64(reply.Body.AsSpan(40))));
        Assert.False(_server.Device.Host!.Write(new DmaAddress(0x12000), [1]));
    }

    [Fact]
    public void Features()
    {
        byte[] start = RawPeer.Bytes(new LogControlBody { PageSize = 4096 });
        foreach (uint flags in (uint[])[1, 1 | 1 << 17, 6 | 1 << 16, 8 | 1 << 17, 9 | 1 << 17, 1 | 1 << 19, 2 | 3 << 16])
            Refused(Errno.EINVAL, Command.DeviceFeature, RawPeer.Bytes(new FeatureBody { ArgSize = 64, Flags = (FeatureFlags)flags }, new byte[32]));
        Refused(Errno.ENOTTY, Command.DeviceFeature, RawPeer.Bytes(new FeatureBody { ArgSize = 64, Flags = (FeatureFlags)0xffff | FeatureFlags.Get }));
        Refused(Errno.ENOTTY, Command.DeviceFeature, RawPeer.Bytes(new FeatureBody { ArgSize = 64, Flags = (FeatureFlags)3 | FeatureFlags.Probe }));
        Refused(Errno.EINVAL, Command.DeviceFeature, RawPeer.Bytes(new FeatureBody { ArgSize = 7, Flags = (FeatureFlags)1 | FeatureFlags.Get }));
        Refused(Errno.EINVAL, Command.DeviceFeature, RawPeer.Bytes(new FeatureBody { ArgSize = 15, Flags = (FeatureFlags)1 | FeatureFlags.Get }));

        // A probe does nothing and echoes.
        byte[] probe = Feature(VfioUser.Feature.DmaLoggingStart, FeatureFlags.Set | FeatureFlags.Probe, start);
        using (RawMessage reply = _peer.Call(Command.DeviceFeature, probe))
            Assert.Equal(probe, reply.Body);
        Done(Command.DeviceFeature, Feature(VfioUser.Feature.MigrationDeviceState, FeatureFlags.Get | FeatureFlags.Set | FeatureFlags.Probe, []));
        Done(Command.DeviceFeature, Feature(VfioUser.Feature.Migration, FeatureFlags.Probe, []));
        Refused(Errno.EINVAL, Command.DeviceFeature, Feature(VfioUser.Feature.Migration, FeatureFlags.Set | FeatureFlags.Probe, []));
        Refused(Errno.EINVAL, Command.DeviceFeature, Feature(VfioUser.Feature.DmaLoggingStop, FeatureFlags.Set, [])); // so it was not started

        foreach (uint state in (uint[])[0, 8, uint.MaxValue])
            Refused(Errno.EINVAL, Command.DeviceFeature, Feature(VfioUser.Feature.MigrationDeviceState, FeatureFlags.Set, RawPeer.Bytes(new MigrationStateBody { State = state })));
        Refused(Errno.EINVAL, Command.DeviceFeature, Feature(VfioUser.Feature.MigrationDeviceState, FeatureFlags.Set, new byte[7]));
        Assert.Empty(_server.Device.Transitions);
    }

    [Fact]
    public void Migration_data_needs_the_right_state_and_room()
    {
        byte[] read = RawPeer.Bytes(new MigrationDataBody { ArgSize = 108, Size = 100 });
        byte[] write = RawPeer.Bytes(new MigrationDataBody { ArgSize = 12, Size = 4 }, [1, 2, 3, 4]);
        foreach (DeviceMigrationState state in (DeviceMigrationState[])[DeviceMigrationState.Running, DeviceMigrationState.PreCopy, DeviceMigrationState.PreCopyP2P, DeviceMigrationState.StopCopy, DeviceMigrationState.Stop, DeviceMigrationState.Resuming, DeviceMigrationState.RunningP2P])
        {
            Done(Command.DeviceFeature, Feature(VfioUser.Feature.MigrationDeviceState, FeatureFlags.Set, RawPeer.Bytes(new MigrationStateBody { State = (uint)state })));
            bool saving = state is DeviceMigrationState.PreCopy or DeviceMigrationState.PreCopyP2P or DeviceMigrationState.StopCopy;
            Assert.Equal(saving ? Errno.None : Errno.EINVAL, _peer.Try(Command.MigrationDataRead, read));
            Assert.Equal(state == DeviceMigrationState.Resuming ? Errno.None : Errno.EINVAL, _peer.Try(Command.MigrationDataWrite, write));
            if (saving)
            {
                Refused(Errno.EINVAL, Command.MigrationDataRead, RawPeer.Bytes(new MigrationDataBody { ArgSize = 107, Size = 100 }));
                Refused(Errno.EINVAL, Command.MigrationDataRead, RawPeer.Bytes(new MigrationDataBody { ArgSize = uint.MaxValue, Size = (1 << 20) + 1 }));
            }
            if (state == DeviceMigrationState.Resuming)
            {
                Refused(Errno.EINVAL, Command.MigrationDataWrite, RawPeer.Bytes(new MigrationDataBody { ArgSize = 13, Size = 5 }, [1, 2, 3, 4]));
                Refused(Errno.EINVAL, Command.MigrationDataWrite, RawPeer.Bytes(new MigrationDataBody { ArgSize = 11, Size = 4 }, [1, 2, 3, 4]));
                Refused(Errno.EINVAL, Command.MigrationDataWrite, RawPeer.Bytes(new MigrationDataBody { ArgSize = uint.MaxValue, Size = uint.MaxValue }, [1, 2, 3, 4]));
            }
        }
        Assert.Equal([1, 2, 3, 4], _server.Device.Loaded.ToArray());
    }

    private static byte[] Feature(Feature feature, FeatureFlags method, byte[] data) =>
        RawPeer.Bytes(new FeatureBody { ArgSize = (uint)(8 + data.Length), Flags = (FeatureFlags)feature | method }, data);

    private void Refused(Errno expected, Command command, byte[] body, params FileDescriptor[] files)
    {
        using RawMessage reply = _peer.Call(command, body, files);
        Assert.Equal(expected, reply.Header.ReplyErrno);
        Assert.Empty(reply.Body);
    }

    private void Done(Command command, byte[] body, params FileDescriptor[] files) => Assert.Equal(Errno.None, _peer.Try(command, body, files));
}
