using System.CommandLine;

namespace Godwit.Cli.Tests;

/// <summary>The command line as a whole: what it takes, and what it says to what it does not take.</summary>
public sealed class CommandLineTests
{
    [Theory]
    [InlineData("device nvme --socket a --image b")]
    [InlineData("device nvme --socket a --socket b --image c")]
    [InlineData("device nvme --socket a --image b --socket c --image d")]
    [InlineData("device edu --socket a --socket b")]
    [InlineData("device nvme --socket a --image b --size 64M --block-size 512 --serial x --exit-with-parent")]
    [InlineData("device edu --socket a")]
    [InlineData("device check --socket a --second b --timeout 500ms --json")]
    [InlineData("device edu --socket a --dma-mask 0xffffffff --exit-with-parent")]
    [InlineData("run --monitor m")]
    [InlineData("run --name src --memory 1G --iommu intel --aw-bits 48 --device vfio-user,socket=a --guest idle --monitor m --incoming unix:x")]
    [InlineData("run --monitor m --device vfio-user,socket=a,id=a --device vfio-user,socket=b,id=b")]
    [InlineData("migrate --monitor m unix:/x")]
    [InlineData("migrate --monitor m tcp:h:1 --downtime-limit 50ms --bandwidth 1G --verify --min-precopy 2s --json")]
    [InlineData("status --monitor m --json")]
    [InlineData("blockers --monitor m --json")]
    [InlineData("stop --monitor m")]
    [InlineData("cont --monitor m")]
    [InlineData("quit --monitor m")]
    [InlineData("powerdown --monitor m")]
    [InlineData("run --monitor m --iommu intel,aw-bits=57,caching-mode=on,intremap=on,eim=on,pt=off,device-iotlb=on,scalable-mode=on,snoop-control=on")]
    [InlineData("run --monitor m --iommu intel,dma-translation=off,intremap=on --vcpus 255")]
    [InlineData("run --monitor m --iommu intel,intremap=on,eim=on --aw-bits 48 --caching-mode on --pass-through off --vcpus 1024")]
    [InlineData("demo --iommu intel,intremap=on,eim=on --vcpus 300")]
    [InlineData("demo --iommu intel,dma-translation=off,intremap=on")]
    [InlineData("demo --iommu intel,aw-bits=48,scalable-mode=on --guest-tables first --domain-switches 20")]
    [InlineData("demo")]
    [InlineData("demo --memory 64M --run-for 2s --dirty-rate 0 --churn 0 --queue-depth 1 --iommu none --aw-bits 39 --downtime-limit 1s --transport tcp --seed 0 --json --bandwidth 0")]
    public void What_the_documentation_shows_is_taken(string line) =>
        Assert.Equal([], GodwitCommand.Create().Parse(line).Errors.Select(error => error.Message));

    [Theory]
    [InlineData("demo --bogus", "--bogus")]
    [InlineData("nosuch", "nosuch")]
    [InlineData("run", "--monitor")]
    [InlineData("run --monitor m --memory 63M", "--memory '63M' must be from 64M to 1T")]
    [InlineData("run --monitor m --memory 65M", "--memory '65M' must be a multiple of 2M")]
    [InlineData("run --monitor m --memory 2T", "from 64M to 1T")]
    [InlineData("run --monitor m --memory much", "--memory 'much' is not a size")]
    [InlineData("run --monitor m --iommu amd", "--iommu: 'amd' is not one of intel, none")]
    [InlineData("run --monitor m --aw-bits 40", "--aw-bits: aw-bits must be 39, 48 or 57, not '40'")]
    [InlineData("run --monitor m --iommu intel,aw-bits=40", "--iommu: aw-bits must be 39, 48 or 57, not '40'")]
    [InlineData("run --monitor m --iommu intel,width=39", "'width' is not a property of intel: aw-bits, caching-mode, intremap, eim,")]
    [InlineData("run --monitor m --iommu intel,intremap=yes", "intremap must be on or off, not 'yes'")]
    [InlineData("run --monitor m --iommu intel,intremap", "'intremap' in 'intel,intremap' must be key=value")]
    [InlineData("run --monitor m --iommu intel,pt=on,pt=on", "'pt' is given twice")]
    [InlineData("run --monitor m --iommu intel,aw-bits=48 --aw-bits 48", "'aw-bits' is given twice")]
    [InlineData("run --monitor m --iommu none,pt=on", "none has none")]
    [InlineData("run --monitor m --iommu intel,eim=on", "eim=on needs intremap=on")]
    [InlineData("run --monitor m --iommu intel,scalable-mode=on", "aw-bits=48 or 57")]
    [InlineData("demo --iommu intel,dma-translation=off", "dma-translation=off needs intremap=on")]
    [InlineData("run --monitor m --caching-mode maybe", "--caching-mode: caching-mode must be on or off, not 'maybe'")]
    [InlineData("run --monitor m --vcpus 0", "--vcpus '0' must be a whole number from 1 to 1024")]
    [InlineData("run --monitor m --vcpus 256", "256 vCPUs need a vIOMMU with intremap=on,eim=on")]
    [InlineData("run --monitor m --vcpus 300 --iommu none", "300 vCPUs need a vIOMMU with intremap=on,eim=on")]
    [InlineData("demo --vcpus 300 --iommu intel,intremap=on", "255 vCPUs is the limit")]
    [InlineData("run --monitor m --device vfio-user", "needs socket=PATH")]
    [InlineData("run --monitor m --device vfio-user,socket=a,id=x --device vfio-user,socket=b,id=x", "two devices have the id 'x'")]
    [InlineData("run --monitor m --guest nosuch", "no guest 'nosuch'")]
    [InlineData("run --monitor m --guest nvme-stress,speed=1", "'speed'")]
    [InlineData("run --monitor m --guest ,x=1", "must begin with a name")]
    [InlineData("device nvme --socket a", "--image")]
    [InlineData("device nvme --socket a --image b --image c", "2 --image for 1 --socket")]
    [InlineData("device nvme --socket a --socket b --socket c --image d --image e", "2 --image for 3 --socket")]
    [InlineData("device nvme --socket a --image b --size 0", "--size '0' must be from 1")]
    [InlineData("device nvme --socket a --image b --block-size 1024", "--block-size '1024' is not one of 512, 4096")]
    [InlineData("device edu --socket a --dma-mask wide", "--dma-mask 'wide' is not a hexadecimal number")]
    [InlineData("migrate --monitor m", "URI")]
    [InlineData("migrate --monitor m unix:/x --downtime-limit 0", "--downtime-limit '0' must be from 1ms to 2000s")]
    [InlineData("migrate --monitor m unix:/x --downtime-limit soon", "--downtime-limit 'soon' is not a time")]
    [InlineData("demo --queue-depth 1024", "--queue-depth '1024' must be a whole number from 1 to 1023")]
    [InlineData("demo --seed -1", "--seed '-1' must be")]
    [InlineData("demo --transport rdma", "--transport 'rdma' is not one of unix, tcp")]
    public void What_is_wrong_is_named_with_its_limit(string line, string named)
    {
        ParseResult parsed = GodwitCommand.Create().Parse(line);
        Assert.Contains(parsed.Errors, error => error.Message.Contains(named, StringComparison.Ordinal));
    }

    [Fact]
    public void Every_command_and_option_is_described() => Described(GodwitCommand.Create(), "godwit");

    [Fact]
    public void Every_command_that_does_something_has_an_example()
    {
        foreach (DocumentedCommand command in All(GodwitCommand.Create()).OfType<DocumentedCommand>())
        {
            Assert.Contains("Example", command.Page, StringComparison.Ordinal);
            string path = string.Join(' ', command.Parents.OfType<Command>().Where(parent => parent is not RootCommand).Select(parent => parent.Name).Append(command.Name));
            Assert.Contains($"godwit {path}", command.Page, StringComparison.Ordinal);
        }
    }

    private static IEnumerable<Command> All(Command command) => command.Subcommands.SelectMany(All).Prepend(command);

    private static void Described(Command command, string path)
    {
        Assert.False(string.IsNullOrWhiteSpace(command.Description), path);
        Assert.True(command is RootCommand || command.Subcommands.Count > 0 || command is DocumentedCommand, path);
        foreach (Option option in command.Options)
        {
            Assert.False(string.IsNullOrWhiteSpace(option.Description), $"{path} {option.Name}");
        }

        foreach (Command below in command.Subcommands)
        {
            Described(below, $"{path} {below.Name}");
        }
    }
}
