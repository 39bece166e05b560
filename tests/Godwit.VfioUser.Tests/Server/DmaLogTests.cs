using Godwit.Interop.Linux;

namespace Godwit.VfioUser.Tests;

/// <summary>The log of device writes: nothing lost, nothing outside, whatever windows and page sizes are asked for.</summary>
public sealed class DmaLogTests
{
    [Fact]
    public void Agrees_with_a_plain_model()
    {
        int seed = Environment.TickCount;
        for (int run = 0; run < 40; run++)
            Run(seed + run);

        static void Run(int seed)
        {
            var random = new Random(seed);
            int logShift = 12 + random.Next(4);
            // Around the end of a chunk, and at the very top of the address space.
            ulong origin = random.Next(2) == 0 ? (1ul << (logShift + 12)) * 5 - (64ul << logShift) : 0ul - (256ul << logShift);
            const int Pages = 256;
            LogRanges ranges = LogRanges.All;
            bool[] armed = [.. Enumerable.Repeat(true, Pages)];
            if (random.Next(2) == 0)
            {
                Assert.Equal(Errno.None, LogRanges.TryCreate(1ul << logShift, [Range(10, 20), Range(100, 1), Range(101, 50), Range(200, 56)], out LogRanges? some));
                ranges = some!;
                for (int i = 0; i < Pages; i++)
                    armed[i] = i is (>= 10 and < 30) or (>= 100 and < 151) or (>= 200 and < 256);
            }
            var log = new DmaLog(1ul << logShift, ranges);
            bool[] model = new bool[Pages];
            for (int step = 0; step < 300; step++)
            {
                string where = $"seed {seed}, step {step}";
                if (random.Next(3) != 0)
                {
                    ulong first = (ulong)random.NextInt64(Pages << logShift);
                    ulong length = Math.Min((ulong)random.NextInt64(1, random.Next(2) == 0 ? 100 : 70L << logShift), ((ulong)Pages << logShift) - first);
                    log.Mark(origin + first, length);
                    for (ulong page = first >> logShift; page <= (first + length - 1) >> logShift; page++)
                        model[page] |= armed[page];
                    continue;
                }
                int reportShift = 12 + random.Next(7);
                ulong size = 1ul << reportShift;
                ulong reportPages = ((ulong)Pages << logShift) / size;
                if (reportPages == 0)
                    continue;
                ulong start = (ulong)random.NextInt64((long)reportPages);
                ulong count = 1 + (ulong)random.NextInt64((long)(reportPages - start));
                ulong[] bitmap = new ulong[(count + 63) / 64 + 1];
                log.Report(origin + start * size, count * size, size, bitmap);
                ulong windowFirst = start * size;
                ulong windowLast = windowFirst + (count * size - 1);
                for (ulong bit = 0; bit < (ulong)bitmap.Length * 64; bit++)
                {
                    bool expected = false;
                    if (bit < count)
                    {
                        ulong from = windowFirst + bit * size;
                        for (ulong page = from >> logShift; page <= (from + size - 1) >> logShift; page++)
                            expected |= model[page];
                    }
                    Assert.True(expected == ((bitmap[bit / 64] >> (int)(bit % 64) & 1) != 0), $"{where}, bit {bit}");
                }
                for (ulong page = 0; page < Pages; page++)
                {
                    if (page << logShift >= windowFirst && ((page + 1) << logShift) - 1 <= windowLast)
                        model[page] = false;
                }
            }

            DmaRange Range(ulong page, ulong count) => new(new DmaAddress(origin + (page << logShift)), count << logShift);
        }
    }

    [Fact]
    public void A_write_is_reported_at_least_once_after_it_happened()
    {
        // Writers store a new value and mark; the reader reports and then looks. In the end every last value must have been looked at
        // after a report of its page. Chunks are taken out and come back all the time, as most reports find nothing.
        const int Pages = 16384;
        int[] values = new int[Pages];
        int[] seen = new int[Pages];
        var log = new DmaLog(4096, LogRanges.All);
        int running = 2;
        Thread[] writers = [.. Enumerable.Range(0, 2).Select(t => new Thread(() =>
        {
            var random = new Random(t);
            for (int i = 1; i <= 300_000; i++)
            {
                int page = random.Next(Pages / 2) * 2 + t;
                values[page] = i;
                log.Mark((ulong)page << 12, 4096);
            }
            Interlocked.Decrement(ref running);
        }))];
        foreach (Thread writer in writers)
            writer.Start();
        ulong[] bitmap = new ulong[Pages / 64];
        bool last;
        do
        {
            last = Volatile.Read(ref running) == 0;
            Array.Clear(bitmap);
            for (int i = 0; i < (last ? 1 : 3); i++)
                log.Report(0, (ulong)Pages << 12, 4096, bitmap);
            for (int page = 0; page < Pages; page++)
            {
                if ((bitmap[page / 64] >> (page % 64) & 1) != 0)
                    seen[page] = Volatile.Read(ref values[page]);
            }
        }
        while (!last);
        Assert.Equal(values, seen);
        log.Report(0, (ulong)Pages << 12, 4096, bitmap);
        log.Report(0, (ulong)Pages << 12, 4096, bitmap);
        Assert.Equal(0, log.ChunkCount);
    }

    [Fact]
    public void Memory_is_used_only_where_something_was_written_and_given_back()
    {
        var log = new DmaLog(4096, LogRanges.All);
        ulong[] bitmap = new ulong[1 << 14];
        for (ulong i = 0; i < 100; i++)
            log.Mark(i << 57, 1);
        Assert.Equal(100, log.ChunkCount);
        log.Report(0, 1ul << 57, 1ul << 40, bitmap); // 2^45 pages of the log: in time proportional to what is there
        Assert.Equal(1ul, bitmap[0]);
        for (ulong i = 1; i < 100; i++)
            log.Report(i << 57, 1ul << 24, 4096, bitmap);
        for (ulong i = 0; i < 100; i++)
            log.Report(i << 57, 1ul << 24, 4096, bitmap);
        Assert.Equal(0, log.ChunkCount);
    }

    [Fact]
    public void A_log_that_is_full_reports_everything()
    {
        var log = new DmaLog(4096, LogRanges.All, maxChunks: 10);
        for (ulong i = 0; i < 12; i++)
            log.Mark(i << 30, 1);
        Assert.Equal(10, log.ChunkCount);
        ulong[] bitmap = new ulong[3];
        log.Report(11ul << 30, 70 * 4096, 4096, bitmap);
        Assert.Equal([ulong.MaxValue, 0x3ful, 0ul], bitmap);
    }

    [Fact]
    public void Start_checks_its_ranges_like_the_kernel()
    {
        using var server = new TestServer();
        using VfioUserClient client = server.Connect();
        Refused(Errno.EINVAL, 0);
        Refused(Errno.EINVAL, 4097);
        Refused(Errno.EINVAL, 4096, (0x1000, 0));
        Refused(Errno.EINVAL, 4096, (0x1800, 0x1000));
        Refused(Errno.EINVAL, 4096, (0x1000, 0x1800));
        Refused(Errno.EINVAL, 0x10000, (0x1000, 0x10000));
        Refused(Errno.EOVERFLOW, 4096, (0xffff_ffff_ffff_f000, 0x2000));
        Refused(Errno.EINVAL, 4096, (0x1000, 0x2000), (0x2000, 0x1000));
        Refused(Errno.EINVAL, 4096, (0x5000, 0x1000), (0x1000, 0x1000), (0x5000, 0x1000));
        Assert.Equal(4096ul, Start(4096, [.. Enumerable.Range(0, 256).Select(i => ((ulong)i << 20, 0x1000ul))]));
        Refused(Errno.EINVAL, 4096); // once
        client.StopDmaLogging();
        Assert.Equal(Errno.EINVAL, Assert.Throws<VfioUserRemoteException>(client.StopDmaLogging).Errno);
        Assert.Equal(4096ul, Start(1, [(3, 1)])); // finer than is kept
        client.StopDmaLogging();
        Assert.Equal(1ul << 30, Start(1ul << 40, []));

        ulong Start(ulong pageSize, (ulong Start, ulong Length)[] ranges) =>
            client.StartDmaLogging(pageSize, [.. ranges.Select(r => new DmaRange(new DmaAddress(r.Start), r.Length))]);

        void Refused(Errno expected, ulong pageSize, params (ulong Start, ulong Length)[] ranges) =>
            Assert.Equal(expected, Assert.Throws<VfioUserRemoteException>(() => Start(pageSize, ranges)).Errno);
    }

    [Fact]
    public void More_ranges_than_the_kernel_takes_are_too_many()
    {
        using var server = new TestServer();
        using RawPeer peer = RawPeer.ConnectAndNegotiate(server.Path);
        byte[] ranges = [.. Enumerable.Range(0, 257).SelectMany(i => RawPeer.Bytes(new SpanBody { Start = (ulong)i << 20, Length = 4096 }))];
        Assert.Equal(Errno.E2BIG, Start(257));
        Assert.Equal(Errno.E2BIG, Start(uint.MaxValue));
        Assert.Equal(Errno.None, Start(256));

        Errno Start(uint count) => peer.Try(
            Command.DeviceFeature,
            RawPeer.Bytes(
                new FeatureBody { ArgSize = 8192, Flags = (FeatureFlags)Feature.DmaLoggingStart | FeatureFlags.Set },
                RawPeer.Bytes(new LogControlBody { PageSize = 4096, RangeCount = count }, ranges)));
    }

    [Fact]
    public void Marks_outlive_the_mapping_but_not_the_stop()
    {
        using var server = new TestServer();
        using VfioUserClient client = server.Connect(out IDeviceHost host);
        using MemFd ram = MemFd.Create("ram", 0x10000);
        Assert.Equal(Errno.EINVAL, Assert.Throws<VfioUserRemoteException>(() => Report()).Errno); // nothing is logged
        client.DmaMap(new DmaRange(new DmaAddress(0x10000), 0x8000), DmaAccess.Write, ram, 0);
        Assert.True(host.Write(new DmaAddress(0x10000), [1])); // before the start
        client.StartDmaLogging(4096, [new DmaRange(new DmaAddress(0x10000), 0x4000), new DmaRange(new DmaAddress(0x18000), 0x1000)]);
        client.DmaMap(new DmaRange(new DmaAddress(0x18000), 0x4000), DmaAccess.Write, ram, 0x8000); // mapped while logging
        Assert.True(host.Write(new DmaAddress(0x11fff), [1, 2]));
        Assert.True(host.Write(new DmaAddress(0x14000), [1])); // not armed
        Assert.True(host.Write(new DmaAddress(0x18000), [1]));
        Assert.True(host.Write(new DmaAddress(0x19000), [1])); // not armed
        client.DmaUnmap(new DmaRange(new DmaAddress(0x10000), 0x8000));
        Assert.Equal(0b1_0000_0110ul, Report());
        Assert.Equal(0ul, Report());
        Assert.True(host.Write(new DmaAddress(0x18000), [1]));
        client.StopDmaLogging();
        client.StartDmaLogging(4096, []);
        Assert.Equal(0ul, Report());

        ulong Report()
        {
            ulong[] bitmap = new ulong[1];
            client.ReportDmaLog(new DmaRange(new DmaAddress(0x10000), 0x10000), 4096, bitmap);
            return bitmap[0];
        }
    }

    [Fact]
    public void Report_checks_its_window_and_keeps_the_marks_when_it_refuses()
    {
        using var server = new TestServer();
        using RawPeer peer = RawPeer.ConnectAndNegotiate(server.Path);
        IDeviceHost host = TestServer.Take(server.Device.Connections);
        using MemFd ram = MemFd.Create("ram", 0x1000);
        Assert.Equal(Errno.None, peer.Try(Command.DmaMap, RawPeer.Bytes(new DmaMapBody { ArgSize = 32, Flags = 3, Address = 0, Size = 0x1000 }), ram));
        Assert.Equal(Errno.None, peer.Try(
            Command.DeviceFeature,
            RawPeer.Bytes(new FeatureBody { ArgSize = 24, Flags = (FeatureFlags)Feature.DmaLoggingStart | FeatureFlags.Set }, RawPeer.Bytes(new LogControlBody { PageSize = 4096 }))));
        Assert.True(host.Write(new DmaAddress(0), [1]));
        Assert.Equal(Errno.EINVAL, Report(0, 0x1000, 0));
        Assert.Equal(Errno.EINVAL, Report(0, 0x1000, 2048));
        Assert.Equal(Errno.EINVAL, Report(0, 0x1000, 0x3000));
        Assert.Equal(Errno.EINVAL, Report(0, 0, 4096));
        Assert.Equal(Errno.EINVAL, Report(0x800, 0x1000, 4096));
        Assert.Equal(Errno.EINVAL, Report(0, 0x1800, 4096));
        Assert.Equal(Errno.EINVAL, Report(0xffff_ffff_ffff_f000, 0x2000, 4096));
        Assert.Equal(Errno.EINVAL, Report(0, 0x1000, 4096, argSize: 39));
        Assert.Equal(Errno.E2BIG, Report(0, 1ul << 36, 4096));
        Assert.Equal(Errno.E2BIG, Report(0, 0xffff_ffff_ffff_f000, 4096));
        using RawMessage reply = peer.Call(Command.DeviceFeature, Request(0, 0x1000, 4096, 40));
        Assert.Equal(1ul, BitConverter.ToUInt64(reply.Body.AsSpan(32)));

        Errno Report(ulong address, ulong length, ulong pageSize, uint argSize = uint.MaxValue) =>
            peer.Try(Command.DeviceFeature, Request(address, length, pageSize, argSize));

        static byte[] Request(ulong address, ulong length, ulong pageSize, uint argSize) => RawPeer.Bytes(
            new FeatureBody { ArgSize = argSize, Flags = (FeatureFlags)Feature.DmaLoggingReport | FeatureFlags.Get },
            RawPeer.Bytes(new LogReportBody { Address = address, Length = length, PageSize = pageSize }));
    }
}
