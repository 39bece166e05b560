using Godwit.Machine.Managed;
using Godwit.Memory;

namespace Godwit.Machine.Guests.Stress;

/// <summary>
/// What each block of the disk must hold, and which commands touch it now: commands that would make a block's content uncertain (a write
/// together with anything else) are never in flight together, so that every read can be verified completely.
/// </summary>
internal static class BlockShadow
{
    private const int Tries = 8;

    /// <summary>Finds blocks free for <paramref name="kind"/> and takes them. A read of unknown content becomes a write.</summary>
    public static bool TryClaim(
        GuestBus bus, ref StressControl control, in ControllerState device, ref CommandKind kind, uint count, out ulong first)
    {
        for (int attempt = 0; attempt < Tries; attempt++)
        {
            first = control.NextRandom(device.Blocks - count + 1);
            CommandKind wanted = kind;
            if (!Allows(bus, device, ref wanted, first, count))
                continue;
            kind = wanted;
            ulong change = wanted == CommandKind.Read ? BlockState.OneReader : BlockState.Writing;
            for (ulong block = first; block < first + count; block++)
            {
                Gpa word = Word(device, block);
                bus.Store(word, bus.Load<ulong>(word) + change);
            }

            return true;
        }

        first = 0;
        return false;
    }

    /// <summary>Ends the claim of a command. What it wrote becomes what the blocks hold; unknown when it failed.</summary>
    public static void Release(GuestBus bus, in ControllerState device, in CommandSlot slot, bool failed)
    {
        ulong content = slot.Kind switch
        {
            CommandKind.Write => BlockState.Pattern | (slot.Generation & BlockState.GenerationMask),
            CommandKind.WriteZeroes => BlockState.Zero,
            CommandKind.Deallocate when device.DeallocatedReadsZero => BlockState.Zero,
            _ => BlockState.Unknown,
        };
        for (ulong block = slot.Block; block < slot.Block + slot.BlockCount; block++)
        {
            Gpa word = Word(device, block);
            ulong state = bus.Load<ulong>(word);
            if (slot.Kind == CommandKind.Read)
                state -= BlockState.OneReader;
            else
                state = failed ? BlockState.Unknown : content;
            bus.Store(word, state);
        }
    }

    public static ulong StateOf(GuestBus bus, in ControllerState device, ulong block) => bus.Load<ulong>(Word(device, block));

    /// <summary>The block turned out to be wrong: nothing is known of it until it is written again.</summary>
    public static void Forget(GuestBus bus, in ControllerState device, ulong block)
    {
        Gpa word = Word(device, block);
        bus.Store(word, bus.Load<ulong>(word) & (BlockState.ReadersMask | BlockState.Writing));
    }

    private static bool Allows(GuestBus bus, in ControllerState device, ref CommandKind kind, ulong first, uint count)
    {
        bool readers = false;
        bool full = false;
        bool unknown = false;
        for (ulong block = first; block < first + count; block++)
        {
            ulong state = StateOf(bus, device, block);
            if ((state & BlockState.Writing) != 0)
                return false;
            readers |= (state & BlockState.ReadersMask) != 0;
            full |= (state & BlockState.ReadersMask) == BlockState.ReadersMask;
            unknown |= (state & BlockState.ContentMask) == BlockState.Unknown;
        }

        if (kind == CommandKind.Read && unknown)
            kind = CommandKind.Write;
        return kind == CommandKind.Read ? !full : !readers;
    }

    private static Gpa Word(in ControllerState device, ulong block)
    {
        if (block >= device.Blocks)
            throw new GuestPanicException($"block {block} is beyond the {device.Blocks} in use");
        return device.Shadow + (block * 8);
    }
}
