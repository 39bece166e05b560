namespace Godwit.Memory.Tests.Access;

public sealed class AccessGuardTests
{
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(30);

    /// <summary>Fails when the calling thread is inside an access: another thread's wait would not end.</summary>
    internal static void AssertOutside()
    {
        var waiter = new Thread(AccessGuard.WaitForAll);
        waiter.Start();
        Assert.True(waiter.Join(Patience), "the guard is still held");
    }

    [Fact]
    public void A_wait_ends_only_when_the_access_has_ended()
    {
        var topology = new MemoryTopology();
        using var inside = new ManualResetEventSlim();
        using var release = new ManualResetEventSlim();
        var iommu = new TestIommu();
        bool used = false;
        iommu.OnTranslate = (iova, _, _) =>
        {
            inside.Set();
            Assert.True(release.Wait(Patience));
            Volatile.Write(ref used, true);
            return new IommuTranslation(iova, default, 0, AccessRights.None);
        };
        AddressSpace space = topology.CreateAddressSpace("device", iommu);
        var reader = new Thread(() => space.Read(default, new byte[4], TransactionAttributes.Vcpu));
        reader.Start();
        Assert.True(inside.Wait(Patience));

        bool usedWhenWaited = false;
        using var started = new ManualResetEventSlim();
        var waiter = new Thread(() =>
        {
            started.Set();
            topology.WaitForAccesses();
            usedWhenWaited = Volatile.Read(ref used);
        });
        waiter.Start();
        Assert.True(started.Wait(Patience));
        for (int i = 0; i < 1000 && waiter.IsAlive; i++)
            Thread.Yield();
        release.Set();
        Assert.True(waiter.Join(Patience));
        Assert.True(reader.Join(Patience));
        Assert.True(usedWhenWaited, "the wait ended before the access");
    }

    [Fact]
    public void A_register_handler_may_wait_while_others_access()
    {
        var topology = new MemoryTopology();
        var registers = new Registers { OnWrite = (_, _, _) => topology.WaitForAccesses() };
        topology.Add(topology.SystemRoot, default, new MmioRegion("tail", 8, registers));
        Parallel(2, () =>
        {
            for (int i = 0; i < 200; i++)
                Assert.Equal(MemoryResult.Ok, topology.System.WriteUInt32(default, 1, TransactionAttributes.Vcpu));
        });
        Assert.Equal(400, registers.Log.Count);
        AssertOutside();
    }

    [Fact]
    public void Translations_that_wait_do_not_wait_for_each_other()
    {
        var topology = new MemoryTopology();
        using var both = new Barrier(2);
        var iommu = new TestIommu();
        int calls = 0;
        iommu.OnTranslate = (iova, _, _) =>
        {
            if (Interlocked.Increment(ref calls) <= 2)
                Assert.True(both.SignalAndWait(Patience));
            topology.WaitForAccesses();
            return new IommuTranslation(iova, default, 0, AccessRights.None);
        };
        AddressSpace space = topology.CreateAddressSpace("device", iommu);
        Parallel(2, () => Assert.Equal(MemoryResult.AccessError, space.Read(default, new byte[4], TransactionAttributes.Vcpu)));
        AssertOutside();
    }

    [Fact]
    public void Nested_accesses_keep_the_outer_guard()
    {
        AccessGuard guard = AccessGuard.Current;
        guard.Enter();
        guard.Enter();
        guard.Exit();
        using var waited = new ManualResetEventSlim();
        using var started = new ManualResetEventSlim();
        var waiter = new Thread(() =>
        {
            started.Set();
            AccessGuard.WaitForAll();
            waited.Set();
        });
        waiter.Start();
        Assert.True(started.Wait(Patience));
        // Gives a broken guard the time to let it through; a right one passes however long this takes.
        for (int i = 0; i < 1000 && !waited.IsSet; i++)
            Thread.Yield();
        Assert.False(waited.IsSet);
        guard.Exit();
        Assert.True(waiter.Join(Patience));
    }

    [Fact]
    public void Slots_of_ended_threads_are_harmless()
    {
        for (int i = 0; i < 50; i++)
        {
            var thread = new Thread(() =>
            {
                AccessGuard.Current.Enter();
                AccessGuard.Current.Exit();
            });
            thread.Start();
            Assert.True(thread.Join(Patience));
        }

        AssertOutside();
    }

    /// <summary>
    /// The promise that invalidation rests on. A table maps IOVA page 0 to one of two RAM pages. The mapper withdraws the translation,
    /// waits, then stamps the page that it took away; a device that writes through the table must never be seen to write a page after
    /// the wait. Readers and the table are as hostile as threads can be.
    /// </summary>
    [Fact]
    public void No_access_uses_a_translation_after_the_wait()
    {
        const int Rounds = 3000;
        var topology = new MemoryTopology();
        using var ram = new GuestRam();
        RamBlock block = ram.Add("ram", 2 << 20);
        topology.Add(topology.SystemRoot, default, new RamRegion("ram", block));
        long target = 0; // page, or -1 for none
        var iommu = new TestIommu();
        iommu.OnTranslate = (iova, _, _) =>
        {
            long page = Volatile.Read(ref target);
            return page < 0
                ? new IommuTranslation(iova, default, 0, AccessRights.None)
                : new IommuTranslation(new Iova(iova.Value & ~0xFFFUL), new Gpa((ulong)page << 12), 0xFFF, AccessRights.ReadWrite);
        };
        AddressSpace device = topology.CreateAddressSpace("device", iommu);
        int stop = 0;
        long written = 0;
        Thread[] writers = [.. Enumerable.Range(0, 2).Select(id => new Thread(() =>
        {
            long mine = 0;
            while (Volatile.Read(ref stop) == 0)
            {
                if (device.WriteUInt64(new BusAddress((ulong)id * 8), 0xDEAD, TransactionAttributes.Vmm) == MemoryResult.Ok)
                    mine++;
            }

            Interlocked.Add(ref written, mine);
        }))];
        foreach (Thread writer in writers)
            writer.Start();
        try
        {
            var clean = new byte[16];
            var seen = new byte[16];
            for (int round = 0; round < Rounds; round++)
            {
                long old = target;
                Volatile.Write(ref target, round % 3 == 0 ? -1 : 1 - Math.Max(old, 0));
                topology.WaitForAccesses();
                if (old < 0 || old == target)
                    continue;
                block.Write((ulong)old << 12, clean, DirtySource.Vmm);
                for (int look = 0; look < 20; look++)
                {
                    block.Read((ulong)old << 12, seen);
                    Assert.True(seen.AsSpan().SequenceEqual(clean), $"round {round}: page {old} was written after the wait");
                }
            }
        }
        finally
        {
            Volatile.Write(ref stop, 1);
            foreach (Thread writer in writers)
                Assert.True(writer.Join(Patience));
        }

        Assert.True(written > 0);
    }

    /// <summary>The fence in <see cref="AccessGuard.Enter"/>: an access that the wait did not see must see what was withdrawn before it.</summary>
    [Fact]
    public void An_access_that_a_wait_missed_sees_the_withdrawal()
    {
        int mapped = 1;
        int used = 0;
        int usedWhenWaited = 0;
        long stale = 0;
        Litmus.Run(
            round =>
            {
                AccessGuard guard = AccessGuard.Current;
                guard.Enter();
                if (Volatile.Read(ref mapped) != 0)
                {
                    Thread.SpinWait(20);
                    Volatile.Write(ref used, round);
                }

                guard.Exit();
            },
            round =>
            {
                Volatile.Write(ref mapped, 0);
                AccessGuard.WaitForAll();
                Volatile.Write(ref usedWhenWaited, Volatile.Read(ref used));
            },
            _ =>
            {
                if (used != usedWhenWaited)
                    stale++;
                mapped = 1;
            });
        Assert.Equal(0, stale);
    }

    private static void Parallel(int count, Action body)
    {
        Exception? failure = null;
        Thread[] threads = [.. Enumerable.Range(0, count).Select(_ => new Thread(() =>
        {
            if (Record.Exception(body) is { } exception)
                Volatile.Write(ref failure, exception);
        }))];
        foreach (Thread thread in threads)
            thread.Start();
        foreach (Thread thread in threads)
            Assert.True(thread.Join(Patience), "a thread hangs");
        Assert.Null(failure);
    }
}
