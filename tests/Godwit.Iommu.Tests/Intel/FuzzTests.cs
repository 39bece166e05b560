using Godwit.Iommu.Intel;
using Godwit.Memory;
using static Godwit.Iommu.Tests.GuestDriver;

namespace Godwit.Iommu.Tests;

/// <summary>A guest that writes garbage everywhere: no exception leaves a register handler or a DMA, and the record stays consistent.</summary>
public class FuzzTests
{
    private static readonly int[] Interesting = [Gcmd, Rtaddr, Rtaddr + 4, Ccmd, Ccmd + 4, Fsts, Fectl, Feaddr, Iqt, Iqa, Ics, Iectl, Ieaddr, Iva, IotlbReg, IotlbReg + 4, 0x22C];

    [Fact]
    public void GarbageNeverThrows() => Seeded.Run(6, random => Run(random, steps: 5_000));

    private static void Run(Random random, int steps)
    {
        using var guest = new GuestDriver(
            new IntelIommuOptions { AddressWidth = random.Next(2) == 0 ? 39 : 48, PassThrough = random.Next(4) != 0 }, functions: 2);
        var user = new ShadowUser(guest.Functions[0].DmaSpace);
        // A small arena, so that garbage finds garbage: every table pointer lands in it or nearly.
        const ulong Arena = 0x40_0000;
        const ulong Pages = 12;
        guest.WriteRegister64(Rtaddr, Arena);
        for (int step = 0; step < steps; step++)
        {
            switch (random.Next(12))
            {
                case 0:
                    guest.Write32(Interesting[random.Next(Interesting.Length)], Word(random));
                    break;
                case 1:
                    guest.Write32(random.Next(0x400) * 4, Word(random));
                    break;
                case 2:
                    guest.WriteRegister64(random.Next(0x200) * 8, Value());
                    break;
                case 3:
                    guest.WriteRegister64(Rtaddr, Arena + ((ulong)random.Next((int)Pages) << 12));
                    guest.Write32(Gcmd, (guest.Read32(Gsts) & (Te | Qie)) | Srtp);
                    break;
                case 4:
                    guest.Write32(Gcmd, (random.Next(4) == 0 ? 0 : Te) | (random.Next(4) == 0 ? 0 : Qie));
                    break;
                case 5:
                    guest.WriteRegister64(Iqa, Arena + ((ulong)random.Next((int)Pages) << 12) + (uint)random.Next(2));
                    break;
                case 6:
                    guest.Write32(Iqt, (uint)random.Next(300) << 4);
                    guest.Write32(Fsts, uint.MaxValue);
                    break;
                case 7:
                    guest.DmaRead(Address(), out _, random.Next(2));
                    guest.DmaWrite(Address(), Value(), random.Next(2));
                    break;
                case 8:
                    // A page of descriptors that are nearly right.
                    ulong page = Arena + ((ulong)random.Next((int)Pages) << 12);
                    for (ulong index = 0; index < 256; index++)
                    {
                        guest.Write64(page + (index * 16), Descriptor(random));
                        guest.Write64(page + (index * 16) + 8, random.Next(2) == 0 ? 0 : Address() & ~0xFF8UL);
                    }

                    break;
                default:
                    for (int count = random.Next(1, 30); count > 0; count--)
                        guest.Write64(Arena + ((ulong)random.NextInt64((long)Pages * 512) * 8), Value());
                    break;
            }
        }

        // Bring it back to sanity: a proper guest can still use it.
        guest.Write32(Gcmd, 0);
        guest.Write32(Fsts, uint.MaxValue);
        Assert.True(guest.Functions[0].DmaSpace.IsSystemMemory);
        Assert.Empty(user.Live);
        Assert.Equal(0, guest.Iommu.Churn.Live);
        ulong table = guest.AllocateTable();
        guest.SetContext(guest.Sid(), table, 1);
        guest.Write64(guest.Root, guest.Contexts | 1);
        guest.Map(table, 0x7000, 0x8000);
        guest.SetRootAndEnable();
        guest.Invalidate(ContextGlobal, IotlbGlobal);
        Assert.Equal(0x8000ul, Assert.Single(user.Live).Value.Target);
        Assert.Equal(MemoryResult.Ok, guest.DmaRead(0x7000, out _));

        ulong Value() => random.Next(6) switch
        {
            0 => 0,
            1 => (ulong)random.NextInt64() | ((ulong)random.Next(2) << 63),
            // A pointer into the arena with low bits that make it an entry of some kind.
            _ => (Arena + ((ulong)random.Next((int)Pages) << 12)) | (uint)(random.Next(4) switch { 0 => 1, 1 => 3, 2 => 0x83, _ => random.Next(0x1000) }),
        };

        ulong Address() => random.Next(4) switch
        {
            0 => Arena + (ulong)random.Next((int)Pages << 12),
            1 => (ulong)random.NextInt64(1L << 48),
            2 => 0xFED9_0000 + (ulong)random.Next(0x100_0000),
            _ => (ulong)random.Next(),
        } & ~7UL;
    }

    private static uint Word(Random random) => random.Next(4) switch { 0 => 0, 1 => uint.MaxValue, 2 => 1u << random.Next(32), _ => (uint)random.NextInt64() };

    private static ulong Descriptor(Random random)
    {
        ulong low = random.Next(5) switch
        {
            0 => 1u | ((uint)random.Next(4) << 4),
            1 or 2 => 2u | ((uint)random.Next(4) << 4) | ((uint)random.Next(16) << 16),
            3 => 5u | ((uint)random.Next(1, 8) << 4) | ((ulong)random.Next() << 32),
            _ => (uint)random.Next(16),
        };
        return random.Next(8) == 0 ? low | (1UL << random.Next(64)) : low;
    }
}
